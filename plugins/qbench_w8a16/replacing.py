"""replace_linears: a model whose linear layers keep their weights as integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench_suite import LayerError, Quantized, QuantModule, Role
from qbench_w8a16.codes import LARGEST, spread
from qbench_w8a16.layer import W8A16LinearLayer

#: Its parent reads its weights, and never calls it.
_NEVER_CALLED = "NonDynamicallyQuantizableLinear"


def replace_linears(
    model: nn.Module, *, bits: int = 8, group_size: int | None = None
) -> tuple[str, ...]:
    """Put a ``W8A16LinearLayer`` in place of every linear layer of ``model``; their names.

    Float layers are quantized with ``bits`` and ``group_size``. Layers that a policy has converted,
    with int8 or int4 weights in a mode along the inputs and float inputs and outputs (the policies
    ``w8a16`` and ``w4a16``, say), keep their codes and scales whatever rule rounded them: the same
    values, now computed from integers. A layer used in several places stays one. Subclasses of
    ``nn.Linear`` with a forward of their own stay as they are. Raises ``LayerError`` where ``model``
    is itself a linear layer, and for weights that are not finite.
    """
    made: dict[int, W8A16LinearLayer | None] = {}
    names = []
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) not in made:
            made[id(module)] = _replacement(module, bits, group_size)
        new = made[id(module)]
        if new is None:
            continue
        if not name:
            raise LayerError(
                "A layer is replaced within its model; got a model that is one linear layer. Use "
                "W8A16LinearLayer.from_float."
            )
        model.set_submodule(name, new)
        names.append(name)
    return tuple(names)


def _replacement(module: nn.Module, bits: int, group_size: int | None) -> W8A16LinearLayer | None:
    if isinstance(module, QuantModule):
        return _of_converted(module)
    if not isinstance(module, nn.Linear) or type(module).__name__ == _NEVER_CALLED:
        return None
    if type(module).forward is not nn.Linear.forward:
        return None
    return W8A16LinearLayer.from_float(module, bits=bits, group_size=group_size)


def _of_converted(module: QuantModule) -> W8A16LinearLayer | None:
    """The layer with the codes of a converted one; None where it is no linear layer of such weights."""
    if set(module.quantizers) != {Role.WEIGHT} or not _named_linear(module):
        return None
    (weight,) = [q for q in module.quantized_tensors() if q.role is Role.WEIGHT]
    result, values = weight.result, weight.result.values
    bits = {f"int{bits}": bits for bits in LARGEST}.get(result.format.name)
    along_inputs = values.dim() == 2 and result.group_shape[0] == 1
    if bits is None or not along_inputs or result.zero_point is not None:
        return None
    bias = getattr(module, "bias", None)
    layer = W8A16LinearLayer.from_codes(
        _codes(weight),
        result.scale,
        bias,
        dtype=values.dtype,
        bits=bits,
        group_size=result.group_shape[1],
    )
    return layer.train(module.training)


def _named_linear(module: QuantModule) -> bool:
    return "torch.nn.Linear" in module.float_types


def _codes(weight: Quantized) -> Tensor:
    """The integers that the weights are multiples of their scales by, exactly."""
    values = weight.result.values.to(torch.float32)
    scale = spread(weight.result.scale, weight.result.group_shape[1], values.shape[1])
    return torch.round(values / scale).to(torch.int8)
