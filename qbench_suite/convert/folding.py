"""Folding: a batch norm that follows a convolution or linear layer becomes part of its weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from qbench_suite.convert.replacements import hooked
from qbench_suite.convert.sites import Survey

#: Largest difference, in parts of the largest value, that rounding makes between folded and not.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Folded:
    """What takes the place of layers and norms, by module name; the originals stay as they are."""

    #: Layers with the norm in their weights.
    layers: Mapping[str, nn.Module]
    #: Norms that pass through what they read, but for an activation function at their end.
    norms: Mapping[str, nn.Module]
    #: Norm → the layer that it is folded into.
    into: Mapping[str, str]


NOTHING = Folded({}, {}, {})


@torch.no_grad()
def fold(model: nn.Module, survey: Survey, among: Collection[str]) -> Folded:
    """Fold what the survey found foldable, where both layer and norm are ``among`` these sites.

    ``W' = W · γ / √(σ² + ε)``, ``b' = (b − μ) · γ / √(σ² + ε) + β``, in the weights' own dtype. A layer
    that computes with other weights than its own, as one that standardises them does, and a norm
    without running statistics are left alone, and so are layers and norms with hooks.
    """
    layers: dict[str, nn.Module] = {}
    norms: dict[str, nn.Module] = {}
    into: dict[str, str] = {}
    for name, norm_name in survey.foldable:
        layer, norm = model.get_submodule(name), model.get_submodule(norm_name)
        if not {name, norm_name} <= set(among) or not isinstance(norm, _BatchNorm):
            continue
        fused = None if hooked(layer) or hooked(norm) else _tried(layer, norm)
        if fused is not None:
            layers[name], norms[norm_name], into[norm_name] = fused, _passing(norm), name
    return Folded(layers, norms, into)


def _tried(layer: nn.Module, norm: _BatchNorm) -> nn.Module | None:
    """``layer`` with ``norm`` in its weights; None where it does not run on a sample of its own."""
    try:
        return _fused(layer, norm)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, KeyError, TypeError):
        return None


def _fused(layer: nn.Module, norm: _BatchNorm) -> nn.Module | None:
    """``layer`` with ``norm`` in its weights; None where that computes something else."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    layer, plain = copy.deepcopy(layer).eval(), copy.deepcopy(norm).eval()
    if isinstance(layer, nn.Conv2d):
        sample = _sample(layer, layer.in_channels, 2 * max(_reach(layer)) + 1)
        fused: nn.Module = fuse_conv_bn_eval(layer, plain)
    elif isinstance(layer, nn.Linear):
        sample = _sample(layer, layer.in_features)
        fused = fuse_linear_bn_eval(layer, plain)
    else:
        return None
    expected = nn.functional.batch_norm(
        layer(sample),
        plain.running_mean,
        plain.running_var,
        plain.weight,
        plain.bias,
        eps=plain.eps,
    )
    error = (fused(sample) - expected).abs().max()
    return fused if bool(error <= _TOLERANCE * expected.abs().max()) else None


def _reach(layer: nn.Conv2d) -> list[int]:
    """Pixels that the kernel spans, along each axis."""
    return [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]


def _sample(layer: nn.Conv2d | nn.Linear, features: int, size: int = 0) -> Tensor:
    """Two inputs of the layer, the same at every call."""
    shape = (2, features, size, size) if size else (2, features)
    wave = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().view(shape)
    return wave.to(layer.weight.device, layer.weight.dtype)


def _passing(norm: _BatchNorm) -> nn.Module:
    """What is left of ``norm``: nothing, or the activation function at its end."""
    if not any(True for _ in norm.children()):
        return nn.Identity()
    rest = copy.deepcopy(norm)
    for parameter, value in (
        (rest.running_mean, 0.0),
        (rest.running_var, 1.0),
        (rest.weight, 1.0),
        (rest.bias, 0.0),
    ):
        if parameter is not None:
            parameter.fill_(value)
    rest.eps = 0.0
    return rest
