"""Sums that error metrics and ranges follow from: mergeable, so that batches can be measured one by one.

Each is one pass over memory: a reduction that runs compiled on large tensors, and uncompiled, with the
same definition, on small ones and where there is no compiler. All sums are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from qbench_suite.errors import QBenchError
from qbench_suite.scaling import compiling
from qbench_suite.scaling.pieces import is_dense

#: Elements from which on compiling is worth its seconds.
_WORTH_COMPILING = 1 << 15


@dataclass(frozen=True)
class ErrorSums:
    """What the error of y against its reference r follows from, over elements where both are finite.

    ``a + b`` are the sums of both tensors; ``ErrorSums()`` are those of none.
    """

    #: Elements where both are finite.
    count: int = 0
    #: Σ r²
    signal: float = 0.0
    #: Σ (y − r)²
    noise: float = 0.0
    #: Σ y · r
    product: float = 0.0
    #: Σ y²
    power: float = 0.0
    #: max |y − r|
    max_abs_err: float = 0.0
    #: Elements of y that are NaN or ±Inf where r is finite.
    nonfinite: int = 0
    #: Elements of r that are NaN or ±Inf.
    reference_nonfinite: int = 0

    def __add__(self, other: Self) -> ErrorSums:
        mine, others = asdict(self), asdict(other)
        worst = max(self.max_abs_err, other.max_abs_err)
        return ErrorSums(**{k: mine[k] + others[k] for k in mine} | {"max_abs_err": worst})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; ``ErrorSums(**state)`` is equal."""
        return asdict(self)


@dataclass(frozen=True)
class RangeSums:
    """Extremes of the finite elements of a tensor, and how many there are of which kind.

    ``a + b`` are those of both tensors; ``RangeSums()`` are those of none.
    """

    #: Finite elements.
    count: int = 0
    #: Smallest of them; +inf where there is none.
    low: float = math.inf
    #: Largest of them; −inf where there is none.
    high: float = -math.inf
    #: Smallest magnitude above 0; +inf where there is none.
    smallest: float = math.inf
    #: NaN elements.
    nan_count: int = 0
    #: ±Inf elements.
    inf_count: int = 0

    def __add__(self, other: Self) -> RangeSums:
        return RangeSums(
            self.count + other.count,
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.smallest, other.smallest),
            self.nan_count + other.nan_count,
            self.inf_count + other.inf_count,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, infinities included; ``RangeSums(**state)`` is equal."""
        return asdict(self)


def error_sums(reference: Tensor, actual: Tensor) -> ErrorSums:
    """Sums of two tensors of one shape, any float dtypes; ``QBenchError`` for different shapes."""
    if reference.shape != actual.shape:
        raise QBenchError(
            f"A quantized result has the shape of its reference; got {tuple(actual.shape)} for "
            f"{tuple(reference.shape)}. Return the shape that the float layer returns."
        )
    # Sums do not care for order, but both tensors are walked in the same one.
    if reference.stride() != actual.stride() or not _is_block(reference):
        reference, actual = reference.contiguous(), actual.contiguous()
    r, y = _block(reference), _block(actual)
    signal, noise, product, power, worst = _reduced(_finite_error_steps, 5, r, y)
    # A NaN or Inf anywhere is in one of these sums.
    if math.isfinite(signal + noise + power):
        return ErrorSums(r.numel(), signal, noise, product, power, worst)
    found = _reduced(_error_steps, 8, r, y)
    count, signal, noise, product, power, worst, nonfinite, bad = found
    return ErrorSums(int(count), signal, noise, product, power, worst, int(nonfinite), int(bad))


def range_sums(x: Tensor) -> RangeSums:
    """Sums of ``x``, any shape and float dtype."""
    x = _block(x if _is_block(x) else x.contiguous())
    if not x.numel():
        return RangeSums()
    low, high, smallest = _reduced(_finite_range_steps, 3, x)
    # Extremes are NaN where anything is.
    if math.isfinite(low) and math.isfinite(high):
        return RangeSums(x.numel(), low, high, smallest)
    found = _reduced(_range_steps, 6, x)
    low, high, smallest, count, nan_count, inf_count = found
    return RangeSums(int(count), low, high, smallest, int(nan_count), int(inf_count))


class _Operands(NamedTuple):
    """Flat tensors of one length, and a float64 vector for what they are reduced to."""

    tensors: tuple[Tensor, ...]
    out: Tensor


def _finite_error_steps(operands: _Operands) -> None:
    """Sums of tensors without NaN and Inf, at half the cost of ``_error_steps``."""
    r, y = (t.double() for t in operands.tensors)
    error = y - r
    sums = ((r * r).sum(), (error * error).sum(), (r * y).sum(), (y * y).sum())
    operands.out.copy_(torch.stack([*sums, error.abs().amax()]))


def _error_steps(operands: _Operands) -> None:
    r, y = operands.tensors
    finite_r, finite_y = r.abs() < math.inf, y.abs() < math.inf
    both = finite_r & finite_y
    r, y = torch.where(both, r, 0).double(), torch.where(both, y, 0).double()
    error = y - r
    sums = (both.sum(), (r * r).sum(), (error * error).sum(), (r * y).sum(), (y * y).sum())
    counts = ((finite_r & ~finite_y).sum(), (~finite_r).sum())
    operands.out.copy_(torch.stack([v.double() for v in (*sums, error.abs().amax(), *counts)]))


def _finite_range_steps(operands: _Operands) -> None:
    """Extremes of a tensor without NaN and Inf, at a fraction of the cost of ``_range_steps``."""
    (x,) = operands.tensors
    magnitude = x.abs()
    smallest = torch.where(magnitude > 0, magnitude, math.inf).amin()
    operands.out.copy_(torch.stack([v.double() for v in (x.amin(), x.amax(), smallest)]))


def _range_steps(operands: _Operands) -> None:
    (x,) = operands.tensors
    magnitude = x.abs()
    finite = magnitude < math.inf
    extremes = (
        torch.where(finite, x, math.inf).amin(),
        torch.where(finite, x, -math.inf).amax(),
        torch.where(finite & (magnitude > 0), magnitude, math.inf).amin(),
    )
    counts = (finite.sum(), x.isnan().sum(), (magnitude == math.inf).sum())
    operands.out.copy_(torch.stack([v.double() for v in (*extremes, *counts)]))


_compiled: dict[tuple[object, ...], Callable[[_Operands], None]] = {}


def _reduced(steps: Callable[[_Operands], None], results: int, *tensors: Tensor) -> list[float]:
    """What ``steps`` reduces ``tensors``, flat and of one length, to."""
    first = tensors[0]
    if not first.numel():
        return [0.0] * results
    operands = _Operands(tensors, torch.empty(results, dtype=torch.float64, device=first.device))
    _kernel(steps, tensors)(operands)
    values: list[float] = operands.out.tolist()
    return values


def _kernel(
    steps: Callable[[_Operands], None], tensors: tuple[Tensor, ...]
) -> Callable[[_Operands], None]:
    """``steps``, compiled for tensors like these where that pays."""
    first = tensors[0]
    if not compiling.is_enabled() or first.numel() < _WORTH_COMPILING:
        return steps
    traits = [(t.dtype, torch.is_inference(t), min(t.storage_offset(), 2)) for t in tensors]
    key = (steps, *traits, compiling.is_parallel(first), first.device, torch.get_num_threads())
    if key not in _compiled:
        _compiled[key] = compiling.compile_apart(steps, len(_compiled), first.device)
    return _compiled[key]


def _is_block(x: Tensor) -> bool:
    return is_dense(tuple(x.shape), x.stride())


def _block(x: Tensor) -> Tensor:
    """The elements of a tensor that fills a block of memory, as they lie there."""
    # Detached: a view remembers its base, and the compiler would specialise on the base's shape.
    return x.detach().as_strided((x.numel(),), (1,), x.storage_offset()).detach()
