"""Norm problems: the inputs of a case, its float64 result, and what torch's own makes of it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench_suite.errors import KernelError
from qbench_suite.norms import Affine, NormOperation, NormProblem, UlpErrors, ulp_errors


@dataclass(frozen=True)
class PosedProblem:
    """A problem with its answer; the same for every kernel that is asked."""

    operation: NormOperation
    inputs: dict[str, Any]
    #: Outputs in float64 (codes as they are), on the device or, where that has no room, on the CPU.
    exact: tuple[Tensor, ...]
    #: Outputs of torch's own operations, and their errors.
    own: tuple[Tensor, ...]
    own_errors: tuple[UlpErrors | None, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs; gradients of what an affine option leaves out are none."""
        return self.operation.outputs[: len(self.exact)]

    def copied_inputs(self) -> dict[str, Any]:
        """Inputs of the same bits and strides in memory of their own."""
        return copy.deepcopy(self.inputs)

    def dtype_of(self, index: int) -> torch.dtype | None:
        """The dtype whose ulps output ``index`` is measured in; None for codes.

        That of the output; scales are rounded values of the input's dtype over a constant, so theirs
        is the input's.
        """
        name = self.names[index]
        if self.operation.quantized and name in ("codes", "scales"):
            return None if name == "codes" else self.inputs["dtype"]
        return self.own[index].dtype

    def errors(self, index: int, output: Tensor) -> UlpErrors | None:
        """Errors of ``output`` as output ``index``, in ulps; None for codes."""
        dtype = self.dtype_of(index)
        if self.own_errors and same_bits(output, self.own[index]):
            return self.own_errors[index]
        if dtype is None:
            return None
        found: UlpErrors = on_cpu_if_full(ulp_errors, output, self.exact[index], dtype)
        return found


class NormProblems:
    """Poses problems; the last is kept, as cases of one problem follow one another."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        self.posed = functools.lru_cache(maxsize=1)(self._posed)

    def _posed(
        self, operation: NormOperation, shape: tuple[int, ...], dtype: str, affine: Affine
    ) -> PosedProblem:
        problem = NormProblem(shape, getattr(torch, dtype), affine, self._seed, self._device)
        inputs = operation.inputs(problem)
        exact = on_cpu_if_full(lambda *values: _exact(operation, inputs, values), *_tensors(inputs))
        own = operation.eager(copy.deepcopy(inputs))()
        posed = PosedProblem(operation, inputs, exact, own)
        errors = tuple(posed.errors(index, output) for index, output in enumerate(own))
        return dataclasses.replace(posed, own_errors=errors)


def _tensors(inputs: dict[str, Any]) -> list[Tensor]:
    return [value for value in inputs.values() if isinstance(value, Tensor)]


def _exact(
    operation: NormOperation, inputs: dict[str, Any], tensors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
    exact = operation.exact({**inputs, **dict(zip(names, tensors, strict=True))})
    return tuple(tensor.detach() for tensor in exact)


def on_cpu_if_full(function: Any, *arguments: Any) -> Any:
    """``function(*arguments)``, with tensors on one device, on the CPU where that has no room.

    So too where it has no float64 at all. Tensors that lie apart meet on the CPU.
    """
    devices = {value.device for value in arguments if isinstance(value, Tensor)}
    if len(devices) == 1:
        try:
            return function(*arguments)
        except (torch.OutOfMemoryError, TypeError):
            if devices == {torch.device("cpu")}:
                raise
    moved = [value.cpu() if isinstance(value, Tensor) else value for value in arguments]
    return function(*moved)


def checked_outputs(posed: PosedProblem, outputs: Any, kernel: str) -> tuple[Tensor, ...]:
    """``outputs`` as a tuple of what the operation gives; raises ``KernelError`` for anything else.

    Memory order is that of torch's own outputs, or of an input of the same shape.
    """
    found = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    due, got = [_described(output) for output in posed.own], [_described(o) for o in found]
    if due == got:
        _require_order(posed, found, kernel)
        return found
    raise KernelError(
        f"A norm kernel gives {', '.join(posed.names)} as torch's own operations do, {'; '.join(due)}; "
        f"{kernel} gave {'; '.join(got)}. Mend its plugin."
    )


def _require_order(posed: PosedProblem, outputs: tuple[Tensor, ...], kernel: str) -> None:
    for name, own, output in zip(posed.names, posed.own, outputs, strict=True):
        inputs = (value for value in _tensors(posed.inputs) if value.shape == own.shape)
        if _order(output) not in map(_order, (own, *inputs)):
            raise KernelError(
                "An output lies in memory as that of torch's own operations does, or as an input of its "
                f"shape; {name} of {tuple(own.shape)} has strides {own.stride()} there, and "
                f"{kernel} gave it {output.stride()}. Mend its plugin."
            )


def _order(tensor: Tensor) -> list[int]:
    """Strides of the axes along which there is a step; none where there is no element."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for length, stride in steps if length > 1] if tensor.numel() else []


def _described(output: Any) -> str:
    if not isinstance(output, Tensor):
        return type(output).__name__
    return f"{tuple(output.shape)} {output.dtype} on {output.device.type}"


def same_bits(some: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape are of one dtype and bit for bit the same; NaN too."""
    if some.dtype != other.dtype:
        return False
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[some.itemsize]
    return torch.equal(some.view(as_integers), other.view(as_integers))


def require_unchanged(posed: PosedProblem, inputs: dict[str, Any], kernel: str) -> None:
    """Raise ``KernelError`` where ``kernel`` wrote into its ``inputs``, copies of the problem's."""
    for name, value in posed.inputs.items():
        if isinstance(value, Tensor) and not same_bits(value, inputs[name]):
            raise KernelError(
                f"A norm kernel leaves its inputs as they are; {kernel} changed {name}. Let it write "
                "to tensors of its own, made in prepare."
            )
