"""QuantTimmVitBlock: a transformer block of timm in which no float operation runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench_fqvit import ops, stored
from qbench_fqvit.act import QAct
from qbench_fqvit.float_block import FloatBlock
from qbench_fqvit.layout import Layout
from qbench_fqvit.linear import QuantLinear
from qbench_fqvit.norm import QLayerNorm
from qbench_fqvit.residual import QResidual
from qbench_fqvit.scales import Scales
from qbench_fqvit.scheme import Scheme
from qbench_fqvit.softmax import QuantIntSoft
from qbench_suite import ConversionError, IntegerBlock

_DTYPES = {8: torch.int8, 16: torch.int16}


class QuantTimmVitBlock(IntegerBlock):
    """Codes (B, T, C) → codes (B, T, C), int8, or int16 where the residual stream has 16 bits.

    A block with windows takes maps (B, rows, columns, C). ``scales`` holds the only floats of the
    state dict: what a code is worth at the rim and, for a look, at every step; ``forward`` reads none.
    A new block is empty; ``from_float`` makes a filled one, ``load_state_dict`` fills it.
    """

    float_state = ("scales.*",)

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("header", layout.to_tensor())
        channels, inner = layout.channels, layout.inner
        self.norm1 = QLayerNorm(channels)
        self.qkv = QuantLinear(channels, 3 * inner)
        self.qkv_act = QAct(3 * inner)
        self.softmax = QuantIntSoft(layout)
        self.context_act = QAct(inner)
        self.proj = QuantLinear(inner, channels)
        self.residual1 = QResidual(channels, layout.residual_bits)
        self.norm2 = QLayerNorm(channels)
        self.fc1 = QuantLinear(channels, layout.hidden)
        self.act = QAct(layout.hidden, layout.fc1_zero_point, lookup=True)
        self.fc2 = QuantLinear(layout.hidden, channels)
        self.residual2 = QResidual(channels, layout.residual_bits)
        self.scales = Scales(layout)
        #: The float block it was made from, for ``float_stages``; ``release_float`` frees it.
        self.original: FloatBlock | None = None
        self._filled = False

    @classmethod
    def from_float(
        cls, block: nn.Module, batches: Sequence[Tensor], scheme: Scheme | None = None
    ) -> QuantTimmVitBlock:
        """A float block of timm in integers, calibrated on ``batches`` of its own inputs.

        Raises ``ConversionError`` for a block that cannot be converted, and where calibration fails.
        """
        from qbench_fqvit.convert import convert

        (made,) = convert(nn.Sequential(block), batches, scheme or Scheme()).blocks.values()
        assert isinstance(made, cls)
        return made

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> QuantTimmVitBlock:
        """The block that ``state`` is the state dict of, equal to it bit for bit.

        Raises ``ConversionError`` where ``state`` is none of such a block.
        """
        if "header" not in state:
            raise ConversionError(
                f"The state dict of an integer block holds its 'header'; got {sorted(state)[:4]}. Give "
                "the state dict of one QuantTimmVitBlock, without a prefix."
            )
        layout = Layout.from_tensor(state["header"])
        with torch.device("meta"):
            # No memory is taken for what the state dict does not hold.
            stored.check(state, cls(layout).state_dict(), layout)
        block = cls(layout)
        block.load_state_dict(dict(state))
        return block

    def forward(self, codes: Tensor) -> Tensor:
        self._check(codes)
        tokens = self._partition(self.norm1(codes))
        qkv = self.qkv_act.after(self.qkv, tokens)
        context = self._reverse(self.softmax.attend(self._split(qkv), self.context_act), codes)
        middle = self.residual1.after(self.proj, context, codes)
        hidden = self.act.after(self.fc1, self.norm2(middle))
        return self.residual2.after(self.fc2, hidden, middle)

    def steps(self, codes: Tensor) -> dict[str, Tensor]:
        """What every step gives, in integers, one operator at a time; the last equals ``forward``."""
        self._check(codes)
        found = {"norm1": self.norm1(codes)}
        found["qkv"] = self.qkv_act(self.qkv(self._partition(found["norm1"])))
        q, k, v = self._split(found["qkv"]).permute(2, 0, 3, 1, 4).unbind(0)
        found["scores"] = ops.scores(q.contiguous(), k.contiguous())
        found["softmax"] = self.softmax(found["scores"])
        acc = ops.context(found["softmax"], v.contiguous(), self.layout.softmax)
        context = self.context_act(acc.transpose(1, 2).flatten(2))
        found["context"] = self._reverse(context, codes)
        found["proj"] = self.proj(found["context"])
        found["middle"] = self.residual1(codes, found["proj"])
        found["norm2"] = self.norm2(found["middle"])
        found["fc1"] = self.fc1(found["norm2"])
        found["act"] = self.act(found["fc1"])
        found["fc2"] = self.fc2(found["act"])
        found["output"] = self.residual2(found["middle"], found["fc2"])
        return found

    def stages(self, codes: Tensor) -> dict[str, Tensor]:
        return {name: self.scales.value(name, step) for name, step in self.steps(codes).items()}

    def float_stages(self, x: Tensor) -> dict[str, Tensor]:
        return self.float_original().stages(x.float())

    def float_original(self) -> FloatBlock:
        """``original``; raises ``ConversionError`` where there is none."""
        if self.original is None:
            raise ConversionError(
                "The float original is asked for where the floats are kept; this block has none, as it "
                "was loaded, unpickled or released. Convert the float model again."
            )
        return self.original

    def quantize_input(self, x: Tensor) -> Tensor:
        """Codes of float activations, ties to even; ±Inf saturates, NaN has the code 0."""
        top = 2 ** (self.layout.residual_bits - 1) - 1
        codes = torch.round(x.float() / self.scales.input).nan_to_num(0.0).clamp(-top - 1, top)
        return codes.to(_DTYPES[self.layout.residual_bits])

    def dequantize_output(self, codes: Tensor) -> Tensor:
        return self.scales.value("output", codes)

    def get_quantized_layers(self) -> dict[str, QuantLinear]:
        """Its linear layers by name, in order of execution: where weights are rounded anew."""
        return {name: m for name, m in self.named_children() if isinstance(m, QuantLinear)}

    def release_float(self) -> None:
        """Free the float copies of the weights, without which only integers can be asked for.

        ``forward`` and the state dict stay as they are; ``float_stages``, ``set_codes`` and
        ``round_weights`` raise ``ConversionError`` from then on. A pickle holds no copies either way;
        those of ``deepcopy`` share them with the block.
        """
        self.original = None
        for linear in self.get_quantized_layers().values():
            linear.origin = None

    def native_libraries(self) -> tuple[Path, ...]:
        return ops.libraries()

    def _partition(self, x: Tensor) -> Tensor:
        windows = self.layout.windows
        return x if windows is None else windows.partition(x)

    def _reverse(self, x: Tensor, codes: Tensor) -> Tensor:
        windows = self.layout.windows
        return x if windows is None else windows.reverse(x, codes.shape[1], codes.shape[2])

    def _split(self, qkv: Tensor) -> Tensor:
        return qkv.reshape(*qkv.shape[:2], 3, self.layout.heads, self.layout.head_dim)

    def _check(self, codes: Tensor) -> None:
        """Raise ``ConversionError`` where the block is empty, or cannot run on ``codes``."""
        layout = self.layout
        if not self._filled:
            raise ConversionError(
                "An integer block computes once it is filled; this one was never calibrated. Make it "
                "by QuantTimmVitBlock.from_float, or load a state dict into it."
            )
        dtype, dims = _DTYPES[layout.residual_bits], 3 if layout.windows is None else 4
        if not isinstance(codes, Tensor):
            raise ConversionError(
                f"This integer block takes a tensor of {dtype} codes; got {type(codes).__name__}. Give "
                "it the output of an integer block, or of quantize_input."
            )
        if codes.dtype != dtype or codes.dim() != dims or codes.shape[-1] != layout.channels:
            raise ConversionError(
                f"This integer block takes {dtype} codes of {dims} axes, the last of "
                f"{layout.channels} channels; got {codes.dtype} of shape {tuple(codes.shape)}. Give it "
                "the output of an integer block, or of quantize_input."
            )
        self._check_map(*codes.shape[1:-1])

    def _check_map(self, rows: int, columns: int | None = None) -> None:
        """Raise ``ConversionError`` where it does not attend to so many tokens."""
        layout = self.layout
        if layout.map_rows and (rows, columns) != (layout.map_rows, layout.map_columns):
            raise ConversionError(
                f"The windows of this integer block are masked for maps of {layout.map_rows} × "
                f"{layout.map_columns} tokens; got {rows} × {columns}. Convert a model of that size."
            )
        if columns is not None:
            return
        if layout.bias_tokens and rows != layout.bias_tokens:
            raise ConversionError(
                f"The scores of this integer block have a bias for {layout.bias_tokens} tokens; got "
                f"{rows}. Convert a model of that image size."
            )
        if rows > layout.max_tokens:
            raise ConversionError(
                f"At most {layout.max_tokens} tokens attend to each other within 32 bits here; got "
                f"{rows}. Calibrate on images of that size."
            )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch, but all or nothing; raises ``ConversionError`` for what is no such state dict."""
        if strict:
            self._check_layout(state_dict.get("header"))
            stored.check_names(set(state_dict), set(self.state_dict()))
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        expected = self.state_dict()
        # A state dict of a model may leave out a block, but no part of one.
        if own.keys() & expected.keys():
            self._check_layout(own.get("header"))
            stored.check(own, expected, self.layout)
            self._filled = True
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _check_layout(self, header: Tensor | None) -> None:
        if header is not None and (layout := Layout.from_tensor(header)) != self.layout:
            raise ConversionError(
                f"A state dict fits a block of its own layout; it has {layout}, the block "
                f"{self.layout}. Use QuantTimmVitBlock.from_state_dict."
            )
