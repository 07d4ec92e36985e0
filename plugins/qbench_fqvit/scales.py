"""Scales: what a code is worth at the rim of a block and at each of its steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qbench_fqvit.layout import Layout
from qbench_fqvit.ops import tables


class Scales(nn.Module):
    """Metadata of an integer block, float32: the input and every step by name.

    ``forward`` of the block reads none of it; ``quantize_input``, ``dequantize_output`` and ``stages``
    do.
    """

    input: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        channels, inner, hidden = layout.channels, layout.inner, layout.hidden
        sizes = {
            "input": channels,
            "norm1": channels,
            "qkv": 3 * inner,
            "scores": layout.heads,
            "context": inner,
            "proj": channels,
            "middle": channels,
            "norm2": channels,
            "fc1": hidden,
            "act": hidden,
            "fc2": channels,
            "output": channels,
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.ones(size))
        self._zero_points = {"act": layout.act_zero_point}
        self._softmax = layout.softmax

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scales:
        # Half precision would change what a code is worth: only the device follows the model.
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in list(self.named_buffers()):
            if value.dtype != torch.float32:
                setattr(self, name, before[name].to(value.device))
        return self

    def value(self, name: str, codes: Tensor) -> Tensor:
        """The float values that the integers of a step stand for."""
        if name == "softmax":
            weights = tables.constant(tables.code_weights, codes.device, self._softmax)
            return weights[codes.long()].float() / (1 << tables.WEIGHT_BITS)
        scale: Tensor = getattr(self, name)
        if name == "scores":
            scale = scale[:, None, None]
        return (codes.int() - self._zero_points.get(name, 0)).float() * scale
