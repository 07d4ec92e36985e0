"""Convert: a copy of a float model whose transformer blocks run in integers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qbench_fqvit.block import QuantTimmVitBlock
from qbench_fqvit.build import build, stream
from qbench_fqvit.calibration import calibration
from qbench_fqvit.linear import QuantLinear
from qbench_fqvit.scheme import Scheme
from qbench_suite import ConversionError, IntegerModel


class IntegerPart(nn.Module):
    """An integer block in the place of a float one.

    Codes flow between neighbouring blocks; the first of a run quantizes what comes in, the last
    dequantizes what goes out.
    """

    rim: Tensor

    def __init__(
        self, block: QuantTimmVitBlock, replaced: nn.Module, *, enters: bool, leaves: bool
    ) -> None:
        super().__init__()
        self.block = block
        self._dtype = next(replaced.parameters()).dtype
        self.register_buffer("rim", torch.tensor([enters, leaves]))
        self.enters, self.leaves = enters, leaves

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **_: Any
    ) -> Tensor:
        """Float activations or codes in, float activations or codes out."""
        if attn_mask is not None or is_causal:
            raise ConversionError(
                "An integer block attends as it was calibrated; got a mask. Run the float model for "
                "masked inputs."
            )
        codes = self.block.quantize_input(x) if self.enters else x
        codes = self.block(codes)
        return self.block.dequantize_output(codes).to(self._dtype) if self.leaves else codes


def convert(
    model: nn.Module, batches: Sequence[Tensor], scheme: Scheme | None = None
) -> IntegerModel:
    """``model`` with every block that can be in integers; ``model`` itself stays as it is.

    ``batches``: images as the model takes them, all of which calibrate it. Embeddings, head and what
    lies between stages stay float32.

    Raises ``ConversionError`` as ``calibration`` does, and where an integer does not fit.
    """
    copied = copy.deepcopy(model).eval()
    found, refused = calibration(copied, batches, scheme or Scheme())
    readers = {seen.source: name for name, seen in found.items() if seen.source is not None}
    blocks = {}
    for name, calibrated in found.items():
        after = readers.get(name)
        output = (
            stream(calibrated.seen, "output")
            if after is None
            else stream(found[after].seen, "input")
        )
        blocks[name] = build(calibrated.block, calibrated.seen, output)
        enters, leaves = calibrated.source not in found, after is None
        _replace(copied, name, blocks[name], enters=enters, leaves=leaves)
    return IntegerModel(copied, blocks, refused)


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> IntegerModel:
    """The converted ``model`` of which ``state`` is the state dict, equal to it bit for bit.

    ``model``: the float model, or one of its architecture; it stays as it is. Raises
    ``ConversionError`` where ``state`` holds no integer block.
    """
    copied = copy.deepcopy(model).eval()
    names = [key.removesuffix(".rim") for key in state if key.endswith(".rim")]
    if not names:
        raise ConversionError(
            f"A converted model's state dict holds integer blocks; got {sorted(state)[:3]} and so on. "
            "Give the state dict of IntegerModel.module."
        )
    blocks = {}
    for name in names:
        inner = f"{name}.block."
        own = {key.removeprefix(inner): v for key, v in state.items() if key.startswith(inner)}
        blocks[name] = QuantTimmVitBlock.from_state_dict(own)
        enters, leaves = state[f"{name}.rim"].tolist()
        _replace(copied, name, blocks[name], enters=enters, leaves=leaves)
    copied.load_state_dict(dict(state))
    return IntegerModel(copied, blocks, {})


def _replace(
    model: nn.Module, name: str, block: QuantTimmVitBlock, *, enters: bool, leaves: bool
) -> None:
    part = IntegerPart(block, model.get_submodule(name), enters=enters, leaves=leaves)
    model.set_submodule(name, part.eval())


def get_quantized_layers(model: IntegerModel) -> dict[str, QuantLinear]:
    """Every linear layer in integers, by its name within the float model, in order of execution."""
    return {
        f"{name}.{layer}": linear
        for name, block in model.blocks.items()
        if isinstance(block, QuantTimmVitBlock)
        for layer, linear in block.get_quantized_layers().items()
    }
