"""Products of matrices that a model calls: matmul in all its spellings, and einsum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench_layers.functions.base import FunctionCall
from qbench_layers.functions.call import Call
from qbench_layers.functions.einsum import parse
from qbench_layers.functions.weights import KeepsWeights, is_parameter
from qbench_suite import Axes, Role

#: Positional parameters by the name of the function, where they are not (input, other).
_PARAMETERS = {
    "__rmatmul__": ("other", "input"),
    "addmm": ("input", "mat1", "mat2"),
    "addmm_": ("input", "mat1", "mat2"),
    "baddbmm": ("input", "batch1", "batch2"),
    "baddbmm_": ("input", "batch1", "batch2"),
    "bmm": ("input", "mat2"),
    "einsum": ("equation", "input", "other"),
    "mm": ("input", "mat2"),
    "mv": ("input", "vec"),
}


class MatmulFunction(KeepsWeights, FunctionCall):
    """``Q(A) · Q(B)``, of matrices, vectors and stacks of them.

    Role: ``input`` for both operands. Chunks run along the axis that is summed over, the last of A
    and the last but one of B; ``channel`` keeps the axis that is not, the rows of A and the columns of
    B; ``token`` keeps all axes but the one summed over. An operand that is a parameter, or a view of
    one, is a ``weight``, quantized once. ``output``, features on the last axis, only where a
    quantizer for it is given. What addmm and baddbmm add stays float, as a bias does.

    Left alone: an einsum that is no product of two operands with one axis summed over.
    """

    kind = "matmul"
    functions = (
        "torch.matmul",
        "torch.linalg.matmul",
        "torch.mm",
        "torch.bmm",
        "torch.mv",
        "torch.addmm",
        "torch.baddbmm",
        "torch.einsum",
        "torch.Tensor.matmul",
        "torch.Tensor.__matmul__",
        "torch.Tensor.__rmatmul__",
        "torch.Tensor.mm",
        "torch.Tensor.bmm",
        "torch.Tensor.mv",
        "torch.Tensor.addmm",
        "torch.Tensor.addmm_",
        "torch.Tensor.baddbmm",
        "torch.Tensor.baddbmm_",
    )
    roles = (Role.WEIGHT, Role.INPUT)

    @classmethod
    def parameters_of(cls, function: Callable[..., Any]) -> tuple[str, ...]:
        """The names that torch has for them."""
        return _PARAMETERS.get(function.__name__, ("input", "other"))

    @classmethod
    def operands_of(cls, call: Call) -> tuple[str, ...]:
        """The left operand, then the right one."""
        return ("input", "other") if call.names[0] == "other" else call.names[-2:]

    @classmethod
    def named(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call:
        """The call; operands of an einsum that come as a list are taken out of it."""
        if function is torch.einsum and len(args) == 2 and isinstance(args[1], (list, tuple)):
            args = (args[0], *args[1])
        return super().named(function, args, kwargs)

    @classmethod
    def reason(cls, call: Call) -> str:
        """Why an einsum is no such product."""
        if call.function is not torch.einsum:
            return ""
        if len(call.args) != 3:
            return f"its einsum has {len(call.args) - 1} operands, not 2"
        product = parse(call.args[0], call.args[1].dim(), call.args[2].dim())
        return product if isinstance(product, str) else ""

    def operand(self, name: str, x: Tensor, call: Call) -> Tensor:
        """The operand, as a weight where it is a parameter."""
        axes = self._operand_axes(name, x, call)
        if is_parameter(x):
            return self.keep_weight("weight", x, axes)
        return self.quantize(Role.INPUT, name, x, axes=axes)

    def result_axes(self, y: Tensor, call: Call) -> Axes:
        """Features on the last axis."""
        return Axes.of_shape(tuple(y.shape), -1)

    def _operand_axes(self, name: str, x: Tensor, call: Call) -> Axes:
        side = self.operands_of(call).index(name)
        if call.function is torch.einsum:
            product = parse(call.args[0], call.args[1].dim(), call.args[2].dim())
            assert not isinstance(product, str), product
            return _axes(x.dim(), product.summed[side], product.free[side])
        if x.dim() == 1:
            return _axes(1, 0, None)
        last, before = x.dim() - 1, x.dim() - 2
        return _axes(x.dim(), before, last) if side else _axes(x.dim(), last, before)


def _axes(rank: int, summed: int, free: int | None) -> Axes:
    """Axes of an operand: chunks along ``summed``, a channel for each place on ``free``."""
    others = tuple(axis for axis in range(rank) if axis != summed)
    return Axes(channel=free, reduction=summed, rows=free, tokens=others)
