"""Which modules of a model have a quantized twin, and why the others have none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from qbench_suite.errors import LayerError
from qbench_suite.layers import QuantModule, replaces, resolve
from qbench_suite.manager import Manager

#: Types that compute nothing at inference: left as they are without loss.
_INERT = frozenset(
    {"Identity", "Dropout", "Dropout2d", "DropPath", "Flatten", "PatchDropout", "AlphaDropout"}
    | {"Permute", "StochasticDepth"}
)
#: Why operations stay float that no function call can be seen for.
UNSEEN = "computes outside of any function call that torch shows"
#: Hooks of these packages only make the weights that the module computes with.
_REPARAMETRIZING = "torch.nn.utils."
#: Types whose parent reads their weights without ever calling them.
_NEVER_CALLED = {
    "NonDynamicallyQuantizableLinear": "torch.nn.MultiheadAttention reads its weight without calling it"
}
#: Inputs of these carry features on axis 1, of those on the last axis.
_FEATURES_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class Replacement:
    """A float module and the quantized layer that replaces it."""

    module: nn.Module
    layer: type[QuantModule]
    #: Feature axis of its input where its neighbours tell; None for the layer's own default.
    feature_axis: int | None


@dataclass(frozen=True)
class FloatModule:
    """A module that stays float."""

    #: Name of its class.
    module_type: str
    #: Why it stays float.
    reason: str
    #: Whether it computes something that quantization would touch.
    loses_coverage: bool


def replacements(
    model: nn.Module, manager: Manager
) -> tuple[dict[str, Replacement], dict[str, FloatModule]]:
    """Modules of ``model`` with a twin, and leaf modules without one, by dotted name."""
    twins: dict[type[nn.Module], type[QuantModule] | None] = {}
    found: dict[str, Replacement] = {}
    left: dict[str, FloatModule] = {}
    scripted: list[str] = []
    for name, module in model.named_modules():
        module_type = type(module)
        if name.startswith(tuple(f"{outer}." if outer else "" for outer in scripted)):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            scripted.append(name)
            left[name or "(model)"] = FloatModule(module_type.__name__, UNSEEN, loses_coverage=True)
            continue
        if module_type not in twins:
            twins[module_type] = _twin(module_type, manager)
        layer = twins[module_type]
        if layer is not None and name and module_type.__name__ not in _NEVER_CALLED:
            found[name] = Replacement(module, layer, _feature_axis(model, name))
        elif layer is not None and not name:
            reason = "the model is this one layer; wrap it in a container to quantize it"
            left["(model)"] = FloatModule(module_type.__name__, reason, loses_coverage=True)
        elif why := _why_float(module):
            left[name or "(model)"] = why
    return found, left


def _twin(module_type: type[nn.Module], manager: Manager) -> type[QuantModule] | None:
    """The layer that replaces the type; one that names it outranks one that names its base.

    Raises ``LayerError`` where two layers have the same claim.
    """
    fits = [entry.layer for entry in manager.layers if replaces(entry.layer, module_type)]
    naming = [layer for layer in fits if module_type in map(resolve, layer.float_types)]
    best = naming or fits
    if len(best) > 1:
        claims = " and ".join(
            f"{layer.__name__} of {manager.layers.owner(layer.__name__)}" for layer in best
        )
        raise LayerError(
            f"A module type has one quantized twin; {module_type.__name__} is claimed by {claims}. "
            "Disable one plugin with --qbench-disable-plugin, or name other float_types."
        )
    return best[0] if best else None


def _why_float(module: nn.Module) -> FloatModule | None:
    """Why a module without twin stays float; None for a container with nothing of its own."""
    name = type(module).__name__
    own = [parameter for parameter, _ in module.named_parameters(recurse=False)]
    if name in _INERT:
        return FloatModule(name, "computes nothing at inference", loses_coverage=False)
    if name in _NEVER_CALLED:
        return FloatModule(name, _NEVER_CALLED[name], loses_coverage=True)
    if not any(True for _ in module.children()):
        dotted = f"{type(module).__module__}.{name}"
        return FloatModule(name, f"no registered layer replaces {dotted}", loses_coverage=True)
    if own:
        reason = f"no registered layer quantizes its own parameters: {', '.join(own)}"
        return FloatModule(name, reason, loses_coverage=True)
    return None


def hooked(module: nn.Module) -> bool:
    """Whether calls of ``module`` run more than its forward: hooks, or a forward of its own instance.

    Hooks that only make its weights, as weight norm, spectral norm and pruning have, do not count.
    """
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return "forward" in vars(module) or any(
        not type(hook).__module__.startswith(_REPARAMETRIZING) for hook in hooks
    )


def _feature_axis(model: nn.Module, name: str) -> int | None:
    """The feature axis that the nearest sibling before ``name`` works on.

    An activation in an NHWC block sees rank-4 tensors whose features come last; its own type does
    not tell, the linear layer before it does.
    """
    parent_name, _, child = name.rpartition(".")
    siblings = list(model.get_submodule(parent_name).named_children())
    position = [key for key, _ in siblings].index(child)
    for _, sibling in reversed(siblings[:position]):
        if features_first(sibling):
            return 1
        if features_last(sibling):
            return -1
    return None


def features_first(module: nn.Module) -> bool:
    """Whether the type of ``module`` says that its input has features on axis 1."""
    return isinstance(module, _FEATURES_FIRST)


def features_last(module: nn.Module) -> bool:
    """Whether the type of ``module`` says that its input has features on the last axis."""
    return isinstance(module, _FEATURES_LAST) and type(module).__name__ != "LayerNorm2d"
