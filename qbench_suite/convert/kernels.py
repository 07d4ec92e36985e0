"""Kernels: layers of a converted model that compute in low precision what was emulated before."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from qbench_suite.convert.overrides import NONE
from qbench_suite.convert.policy import Policy
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.errors import LayerError
from qbench_suite.layers import LinearMap, QuantModule
from qbench_suite.layers.quantizing import Quantizing
from qbench_suite.linears import LinearEntry
from qbench_suite.yaml_lines import Key


def attach_kernels(
    converted: ConvertedModel, policy: Policy, device: torch.device
) -> dict[str, str]:
    """Let the kernels that ``policy`` names multiply; for each site given one why it stays emulated.

    The reason is empty where it does not. Weights, scales, and what is quantized before and after stay
    as they are, so this comes last: rounding rules and static scales follow the emulated arithmetic.
    Raises ``PolicyError``, with the line, for an entry whose kernel takes no layer at all, unless it is
    optional; ``LayerError`` for a kernel that cannot run on ``device``.
    """
    reasons: dict[str, str] = {}
    #: For each entry what came of it at each site.
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for assignment in converted.assignments:
        name, layer = assignment.site.name, converted.layers.get(assignment.site.name)
        if assignment.kernel is None or layer is None:
            continue
        assignment.kernel.require(device)
        try:
            _attach(assignment.kernel, assignment.site.type, layer)
            reasons[name] = ""
        except LayerError as error:
            reasons[name] = str(error)
        found[assignment.kernel_key].append(reasons[name] and f"{name}: {reasons[name]}")
    for key, entry in policy.entries():
        if entry.kernel in (None, NONE) or getattr(entry, "optional", False):
            continue
        refusals = found[*key, "kernel"]
        if all(refusals):
            raise policy.error(
                (*key, "kernel"),
                "a kernel computes a layer of the model",
                f"{entry.kernel}, which takes none ({[*refusals, 'no weights are left for it'][0]})",
                "drop kernel, or name it for the layers it is made for, with optional: true in a policy "
                "for many models",
            )
    return reasons


def _attach(entry: LinearEntry, type: str, layer: Quantizing) -> None:
    """Raises ``LayerError`` where the kernel does not compute ``layer``, of a site of this type."""
    assert entry.adopt is not None
    if not (isinstance(layer, QuantModule) and isinstance(layer, LinearMap) and layer.takes_kernel):
        raise LayerError(f"kernels compute linear layers; this is {type}")
    kernel: nn.Module = entry.adopt(layer).eval().requires_grad_(False)
    dequantize = getattr(kernel, "dequantize", None)
    rows = layer.weight_record().result.values
    if dequantize is not None and not torch.equal(dequantize().to(rows.dtype), rows):
        raise LayerError(f"{entry.name} keeps weights bit for bit, and has others for these")
    layer.kernel = kernel
