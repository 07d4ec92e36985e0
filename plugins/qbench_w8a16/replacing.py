"""replace_linears: a model whose linear layers keep their weights as integers."""

from __future__ import annotations

from collections.abc import Iterable

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
    ``nn.Linear`` with a forward of their own stay as they are. ``nn.TransformerEncoderLayer`` calls the
    layers then, instead of the fused operator that reads float weights. Raises ``LayerError`` where
    ``model`` is itself a linear layer, and for weights that are not finite.
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
    _call_layers(model)
    return tuple(names)


def _call_layers(model: nn.Module) -> None:
    """Keep torch's fused encoder from reading the weights of layers that are to be called."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            if isinstance(getattr(module, "linear1", None), W8A16LinearLayer):
                module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            first = module.layers[0] if len(module.layers) else None
            if isinstance(getattr(first, "linear1", None), W8A16LinearLayer):
                module.use_nested_tensor = False


def _replacement(module: nn.Module, bits: int, group_size: int | None) -> W8A16LinearLayer | None:
    if isinstance(module, QuantModule):
        return _of_converted(module)
    if not isinstance(module, nn.Linear) or type(module).__name__ == _NEVER_CALLED:
        return None
    if type(module).forward is not nn.Linear.forward:
        return None
    return W8A16LinearLayer.from_float(module, bits=bits, group_size=group_size)


def adopt(module: QuantModule, bits: int) -> W8A16LinearLayer:
    """The layer with the codes and scales of a converted one, in ``bits`` bits.

    Raises ``LayerError`` for any that is not a linear layer with weights in int8 (int4), a mode along the
    inputs, and float inputs.
    """
    if reason := _misfit(module, (bits,)):
        raise LayerError(reason)
    return _of_codes(module)


def _of_converted(module: QuantModule) -> W8A16LinearLayer | None:
    """The layer in place of a converted one; None where it would compute something else."""
    if _misfit(module, LARGEST) or Role.OUTPUT in module.quantizers:
        return None
    return _of_codes(module)


def _misfit(module: QuantModule, widths: Iterable[int]) -> str:
    """Why no layer of these bits computes what ``module`` does; empty where one does."""
    if "torch.nn.Linear" not in module.float_types:
        return f"it replaces torch.nn.Linear; this is {type(module).__name__}"
    if Role.INPUT in module.quantizers:
        return "its inputs are float; those of this layer are quantized"
    weights = [q for q in module.quantized_tensors() if q.role is Role.WEIGHT]
    formats = [f"int{bits}" for bits in widths]
    found = [weight.result.format.name for weight in weights]
    if len(weights) != 1 or found[0] not in formats:
        got = ", ".join(found) or "float"
        return f"its weight is {' or '.join(formats)}; that of this layer is {got}"
    result = weights[0].result
    if result.values.dim() != 2 or result.group_shape[0] != 1 or result.zero_point is not None:
        return f"its scales lie along the inputs of each output; those of this layer are {result.mode.name}"
    return ""


def _of_codes(module: QuantModule) -> W8A16LinearLayer:
    (weight,) = [q for q in module.quantized_tensors() if q.role is Role.WEIGHT]
    result = weight.result
    bias = getattr(module, "bias", None)
    layer = W8A16LinearLayer.from_codes(
        _codes(weight),
        result.scale,
        bias,
        dtype=result.values.dtype,
        bits=int(result.format.name.removeprefix("int")),
        group_size=result.group_shape[1],
    )
    return layer.train(module.training)


def _codes(weight: Quantized) -> Tensor:
    """The integers that the weights are multiples of their scales by, exactly."""
    values = weight.result.values.to(torch.float32)
    scale = spread(weight.result.scale, weight.result.group_shape[1], values.shape[1])
    return torch.round(values / scale).to(torch.int8)
