"""Methods: the schemes that are measured, from the plainest to those meant to be used."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qbench_fqvit.convert import convert
from qbench_fqvit.families import Unsupported, describe, find_blocks
from qbench_fqvit.scheme import Scheme
from qbench_suite import IntegerMethod, IntegerModel

_PLAIN = "one scale for a tensor of the residual stream"
_PTF = "power-of-two factors of its channels"
_FOLDED = "power-of-two factors, and scales folded into weights"
_UNIFORM, _LIS, _LOG = "uniform softmax", "4-bit Log-Int-Softmax", "8-bit log softmax"
#: Name, description, whether the default grid holds it, scheme. Up to ``log8`` each adds one thing.
_METHODS: tuple[tuple[str, str, bool, Scheme], ...] = (
    ("minmax", f"{_PLAIN}, {_UNIFORM}", False, Scheme(ptf=0, folding=False, softmax="uniform8")),
    ("ptf", f"{_PTF}, {_UNIFORM}", False, Scheme(folding=False, softmax="uniform8")),
    ("ptf.lis4", f"{_PTF}, {_LIS}", False, Scheme(folding=False, softmax="lis4")),
    ("ptf.log8", f"{_PTF}, {_LOG}", False, Scheme(folding=False)),
    ("log8", f"{_FOLDED}, {_LOG}", True, Scheme()),
    ("lis4", f"{_FOLDED}, {_LIS}", True, Scheme(softmax="lis4")),
    ("log8.shifts", f"{_FOLDED}, every scale a power of two", False, Scheme(power_of_two=True)),
    ("log8.residual16", f"{_FOLDED}, 16-bit residual stream", False, Scheme(residual_bits=16)),
)

#: Models of the default grid: one with trained weights, and the shapes that are timed.
MODELS = ("vit", "timm:deit_tiny_patch16_224", "timm:vit_base_patch16_224")


def method(
    name: str, scheme: Scheme, description: str = "", *, default: bool = False
) -> IntegerMethod:
    """An entry that converts by ``scheme``."""

    def run(model: nn.Module, batches: Sequence[Tensor]) -> IntegerModel:
        return convert(model, batches, scheme)

    return IntegerMethod(
        name=name,
        convert=run,
        misfit=misfit,
        default_models=MODELS,
        description=description,
        default=default,
    )


def misfit(model: nn.Module) -> str:
    """Why no block of ``model`` is of a kind that runs in integers; empty where one is."""
    reasons = []
    for name, block in find_blocks(model):
        try:
            describe(block)
        except Unsupported as reason:
            reasons.append(f"{name}: {reason}")
        else:
            return ""
    return f"no transformer block can run in integers: {'; '.join(reasons) or 'there is none'}"


METHODS = tuple(
    method(f"fqvit.{name}", scheme, description, default=default)
    for name, description, default, scheme in _METHODS
)
