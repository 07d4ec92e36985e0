"""An independent fake-quantize in NumPy, group by group, and tensors that are hard to quantize."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_suite import AbsMax, Axes, Format, Mode, PowerOfTwo, Quantizer, TwoLevel
from qbench_suite.scaling import compiling

Array = np.ndarray[Any, np.dtype[Any]]
F32 = np.float32
LIMIT = F32(3.4e38)
#: Positive E4M3 numbers, from the specification.
E4M3 = sorted(
    {m / 8 * 2.0**-6 for m in range(1, 8)}
    | {(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8) if (e, m) != (8, 7)}
)


class Expected(NamedTuple):
    """What the reference says."""

    values: Array
    scale: Array
    zero_point: Array


@functools.cache
def table(format: Format) -> tuple[Array, Array]:
    """Values ascending in float64, and whether a tie below each goes up to it."""
    lowest: dict[float, int] = {}
    for code, value in sorted(format.code_table.items(), reverse=True):
        if math.isfinite(value) and str(value) != "-0.0":
            lowest[value] = code
    values = sorted(lowest)
    ups = [False]
    for low, high in itertools.pairwise(values):
        even_low, even_high = lowest[low] % 2 == 0, lowest[high] % 2 == 0
        ups.append(abs(high) >= abs(low) if even_low == even_high else even_high)
    return np.array(values), np.array(ups)


def nearest(format: Format, v: Array) -> Array:
    """Float32 ``v`` rounded to the nearest value of the table; boundaries are exact in float64."""
    values, ups = table(format)
    bounded = np.clip(v.astype(np.float64), values[0], values[-1])
    high = np.clip(np.searchsorted(values, np.nan_to_num(bounded)), 1, len(values) - 1)
    middle = (values[high - 1] + values[high]) / 2
    up = (bounded > middle) | ((bounded == middle) & ups[high])
    r = np.where(np.isnan(v), np.nan, np.where(up, values[high], values[high - 1])).astype(F32)
    return np.where(r == 0, np.copysign(F32(0), v), r) if format.has_negative_zero else r


def nearest_e4m3(v: float) -> float:
    """Positive ``v`` rounded to E4M3, ties to the even code."""
    return min(E4M3, key=lambda e: (abs(Fraction(e) - Fraction(v)), (E4M3.index(e) + 1) % 2))


def largest(block: Array) -> Any:
    """Absolute maximum of the finite elements, float32."""
    finite = np.abs(block[np.isfinite(block)])
    return finite.max() if finite.size else F32(0)


def power_of_two(amax: float, top: float, ceil: bool) -> float:
    """The E8M0 scale of a group, without a logarithm and without a division."""
    emax = math.frexp(top)[1] - 1
    if not ceil:
        return math.ldexp(1.0, min(max(math.frexp(amax)[1] - 1 - emax, -127), 127))
    k = -126
    while Fraction(amax) > Fraction(top) * Fraction(2) ** k:
        k += 1
    return math.ldexp(1.0, min(k, 127 - emax))


def group_scale(mode: Mode, format: Format, block: Array, whole: Array) -> Any:
    """The scale of one group, float32."""
    amax, top = largest(block), F32(format.max)
    if amax == 0:
        return F32(1)
    if isinstance(mode.rule, AbsMax):
        return max(min(amax, LIMIT) / top, F32(2.0**-126))
    if isinstance(mode.rule, PowerOfTwo):
        return F32(power_of_two(float(amax), format.max, mode.rule.ceil))
    assert isinstance(mode.rule, TwoLevel)
    tensor_scale = max(min(largest(whole), LIMIT) / (F32(448) * top), F32(2.0**-126))
    factor = min(max(amax / top / tensor_scale, F32(2.0**-9)), F32(448))
    return F32(nearest_e4m3(float(factor))) * tensor_scale


def affine_group(block: Array) -> tuple[Array, Any, Any]:
    """Values, scale and zero point of one group in 0 … 255."""
    bounded = np.clip(np.where(np.isfinite(block), block, F32(0)), F32(-1.7e38), F32(1.7e38))
    least, most = min(bounded.min(), F32(0)), max(bounded.max(), F32(0))
    scale = max((most - least) / F32(255), F32(2.0**-126)) if most > least else F32(1)
    zero = np.clip(-np.rint(least / scale), F32(0), F32(255))
    q = np.clip(np.rint(block / scale), -zero, F32(255) - zero) + F32(0)
    return q * scale, scale, zero + F32(0)


def numpy_fake_quantize(x: Array, format: Format, mode: Mode, axes: Axes) -> Expected:
    """Fake-quantize float32 ``x`` in a loop over groups."""
    group = mode.granularity.group_shape(x.shape, axes)
    shape = tuple(math.ceil(n / g) if g else 0 for n, g in zip(x.shape, group, strict=True))
    values = np.empty_like(x)
    scales, zeros = np.ones(shape, F32), np.zeros(shape, F32)
    with np.errstate(all="ignore"):
        for index in np.ndindex(*shape) if x.size else ():
            where = tuple(slice(i * g, (i + 1) * g) for i, g in zip(index, group, strict=True))
            block = x[where]
            if format.affine:
                values[where], scales[index], zeros[index] = affine_group(block)
                continue
            scale = F32(1) if format.unit_scale else group_scale(mode, format, block, x)
            q = block if format.bits == 32 else nearest(format, block / scale)
            values[where], scales[index] = q * scale, scale
    return Expected(values, scales, zeros)


def hard_tensor(shape: tuple[int, ...], flavour: str, seed: int = 0) -> Tensor:
    """Float32 that is hard to quantize in the way ``flavour`` says."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    pick = torch.randint(0, 5, shape, generator=generator)
    if flavour == "outliers":
        return torch.where(pick == 0, x * 1e4, x)
    if flavour == "zeros":
        return torch.where(pick == 0, x, torch.where(pick == 1, -0.0, 0.0))
    if flavour == "nothing":
        return torch.zeros(shape)
    if flavour == "subnormal":
        return x * 2.0**-133
    if flavour == "small":
        return x * 2.0**-122
    if flavour == "huge":
        return torch.where(pick == 0, 3.4028234663852886e38, x.clamp(-3, 3) * 1.1e38)
    if flavour == "special":
        special = torch.tensor([torch.nan, torch.inf, -torch.inf])
        return torch.where(pick < 2, special[pick % 3], x)
    if flavour == "powers":
        power = torch.exp2(torch.randint(-20, 20, shape, generator=generator).to(torch.float32))
        return torch.where(pick < 3, power.nextafter(torch.tensor(0.0)), power)
    assert flavour == "normal"
    return x


FLAVOURS = (
    "normal", "outliers", "zeros", "nothing", "subnormal", "small", "huge", "special", "powers",
)  # fmt: skip


def bits(x: Tensor) -> Tensor:
    """The bits of numbers as float32, all NaNs being one."""
    x = x.to(torch.float32)
    return torch.where(x.isnan(), torch.nan, x).contiguous().view(torch.int32)


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Kernels run eagerly; test_compiling overrides this."""
    with compiling.eager():
        yield


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    """Whether two tensors are equal bit for bit, signs of zeros included, all NaNs being one."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))

    return same


@pytest.fixture(scope="session")
def hard() -> Callable[..., Tensor]:
    """``hard(shape, flavour, seed=0)``: a float32 tensor that is hard to quantize."""
    return hard_tensor


@pytest.fixture(scope="session")
def reference() -> Callable[[Quantizer, Tensor, Axes], Expected]:
    """The fake-quantize of a quantizer, in NumPy; its values are float32."""

    def run(quantizer: Quantizer, x: Tensor, axes: Axes) -> Expected:
        array = x.to(torch.float32).contiguous().numpy()
        return numpy_fake_quantize(array, quantizer.format, quantizer.mode, axes)

    return run


@pytest.fixture(scope="session", params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each way in which a tensor is hard to quantize."""
    return str(request.param)
