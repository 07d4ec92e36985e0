"""FunctionCall: how every quantized function call of this plugin takes its arguments and runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from qbench_layers.functions.call import Call
from qbench_suite import Axes, QuantFunction, Role

_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class FunctionCall(QuantFunction):
    """``Q(f(Q(x), …))``: operands quantized one by one, then the very function that was called.

    Without quantizers the result has the bits, the dtype and the strides of the call itself. Nothing
    is done in place: where the call does so, the function works on a copy. Calls that write to a
    tensor given as ``out=``, and those whose operands are no float tensors, are left alone.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.INPUT,)
    optional_roles: ClassVar[tuple[Role, ...]] = (Role.OUTPUT,)
    #: Names of the positional parameters, in order.
    parameters: ClassVar[tuple[str, ...]] = ("input",)
    #: Those of them that are quantized.
    operands: ClassVar[tuple[str, ...]] = ("input",)
    #: The role of what the function gives.
    result: ClassVar[Role] = Role.OUTPUT

    @classmethod
    def parameters_of(cls, function: Callable[..., Any]) -> tuple[str, ...]:
        """``parameters``, for functions of the class that spell them otherwise."""
        del function
        return cls.parameters

    @classmethod
    def operands_of(cls, call: Call) -> tuple[str, ...]:
        """``operands``, for functions of the class that call them otherwise."""
        del call
        return cls.operands

    @classmethod
    def named(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call:
        """The call, its arguments by name."""
        return Call(function, cls.parameters_of(function), args, kwargs)

    @classmethod
    def misfit(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Why the call is left alone; empty where it is replaced."""
        call = cls.named(function, args, kwargs)
        if call.get("out") is not None:
            return "it writes to a tensor of the caller's, given as out="
        reasons = (_why_no_operand(name, call.get(name)) for name in cls.operands_of(call))
        return next(filter(None, reasons), "") or cls.reason(call)

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why a call on float tensors is left alone; empty where it is replaced."""
        del call
        return ""

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """The function of quantized operands, itself quantized where its role has a quantizer."""
        before = call = self.named(function, args, kwargs)
        for name in self.operands_of(call):
            call = call.put(name, self.operand(name, before.get(name), before))
        y = self.compute(call)
        if self.result not in self.quantizers:
            return y
        return self.quantize(self.result, str(self.result), y, axes=self.result_axes(y, before))

    def compute(self, call: Call) -> Tensor:
        """What the function gives for operands that are quantized already."""
        if _works_in_place(call):
            call = call.put(call.names[0], call.get(call.names[0]).clone())
        y: Tensor = call.run()
        return y

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The operand ``name``, quantized."""
        return self.quantize(Role.INPUT, name, x, axes=self.axes(x, call))

    def axes(self, x: Tensor, call: Call) -> Axes:
        """What the axes of an operand mean."""
        del call
        return Axes.of_shape(tuple(x.shape), self.feature_axis)

    def result_axes(self, y: Tensor, call: Call) -> Axes:
        """What the axes of the result mean."""
        return self.axes(y, call)


def _why_no_operand(name: str, x: object) -> str:
    if not isinstance(x, Tensor):
        return f"its operand {name!r} is a {type(x).__name__}, no tensor"
    if x.dtype not in _FLOAT_DTYPES:
        return f"its operand {name!r} is a tensor of {x.dtype}, not of floats"
    return ""


def _works_in_place(call: Call) -> bool:
    """Whether the call changes its first argument: ``add_``, ``__iadd__``, ``relu(inplace=True)``."""
    name = call.function.__name__
    dunder = name.endswith("__")
    return bool(call.get("inplace")) or (name.startswith("__i") if dunder else name.endswith("_"))
