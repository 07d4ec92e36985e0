"""Convert: a copy of a float model whose transformer blocks run in integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qbench_fqvit.block import QuantTimmVitBlock
from qbench_fqvit.build import build
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
    like: Tensor

    def __init__(
        self, block: QuantTimmVitBlock, replaced: nn.Module, *, enters: bool, leaves: bool
    ) -> None:
        super().__init__()
        self.block = block
        # What goes out has its dtype, which follows the model through half() and its like.
        dtype = next(replaced.parameters()).dtype
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)
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
        return self.block.dequantize_output(codes).to(self.like.dtype) if self.leaves else codes


def convert(
    model: nn.Module, batches: Iterable[Tensor], scheme: Scheme | None = None
) -> IntegerModel:
    """``model`` with every block that can be in integers; ``model`` itself stays as it is.

    ``batches``: images as the model takes them, all of which calibrate it, read twice: a list, or a
    loader of image tensors that gives the same each time. Embeddings, head and what
    lies between stages stay float32.

    Raises ``ConversionError`` as ``calibration`` does, and where an integer does not fit.
    """
    copied = copy.deepcopy(model).eval()
    found, refused = calibration(copied, batches, Scheme() if scheme is None else scheme)
    readers = {seen.source: name for name, seen in found.items() if seen.source is not None}
    blocks = {}
    for name, calibrated in found.items():
        after = readers.get(name)
        output = (
            calibrated.seen.stream("output") if after is None else found[after].seen.stream("input")
        )
        blocks[name] = build(calibrated.block, calibrated.seen, output)
        enters, leaves = calibrated.source not in found, after is None
        _replace(copied, name, blocks[name], enters=enters, leaves=leaves)
    return IntegerModel(copied, blocks, refused)


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> IntegerModel:
    """The converted ``model`` of which ``state`` is the state dict, equal to it bit for bit.

    ``model``: the float model, or one of its architecture; it stays as it is. Raises
    ``ConversionError`` where ``state`` holds no integer block, a corrupt one, or another model.
    """
    copied = copy.deepcopy(model).eval()
    names = [key.removesuffix(".rim") for key in state if key.endswith(".rim")]
    if not names:
        raise ConversionError(
            f"A converted model's state dict holds integer blocks; got {sorted(state)[:3]} and so on. "
            "Give the state dict of IntegerModel.module."
        )
    known, blocks = {name for name, _ in copied.named_modules()}, {}
    for name in names:
        if name not in known:
            raise _misfit(f"a block {name!r}")
        inner = f"{name}.block."
        own = {key.removeprefix(inner): v for key, v in state.items() if key.startswith(inner)}
        blocks[name] = QuantTimmVitBlock.from_state_dict(own)
        enters, leaves = _rim(state, name)
        _replace(copied, name, blocks[name], enters=enters, leaves=leaves)
    try:
        copied.load_state_dict(dict(state))
    except ConversionError:
        raise
    except RuntimeError as error:
        raise _misfit(str(error)) from error
    return IntegerModel(copied, blocks, {})


def _misfit(received: str) -> ConversionError:
    return ConversionError(
        f"A state dict is restored into the architecture that it was saved from; got {received}. Give "
        "the float model that was converted, or one built alike."
    )


def _rim(state: Mapping[str, Tensor], name: str) -> tuple[bool, bool]:
    rim = state[f"{name}.rim"]
    if rim.dtype != torch.bool or rim.shape != (2,):
        raise ConversionError(
            f"'{name}.rim' is two booleans; got {rim.dtype} of shape {tuple(rim.shape)}. Give the state "
            "dict of IntegerModel.module, unchanged."
        )
    enters, leaves = rim.tolist()
    return enters, leaves


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
