"""Build: from a float block and what calibration saw of it to the integers of a block."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.balance import balanced
from qbench_fqvit.block import QuantTimmVitBlock
from qbench_fqvit.dyadic import as_int32, common_dyadic, dyadic, shift_of
from qbench_fqvit.float_block import Affine, FloatBlock, Norm
from qbench_fqvit.layout import Layout
from qbench_fqvit.linear import TOP, LinearOrigin
from qbench_fqvit.ops import tables
from qbench_fqvit.softmax_tables import exp_table, score_bias
from qbench_fqvit.statistics import Statistics
from qbench_fqvit.stream import Stream
from qbench_fqvit.windows import Windows
from qbench_suite import ConversionError

#: A weight of one, as ``ops.context`` sums it.
_UNIT_WEIGHT = 2.0**tables.WEIGHT_BITS


def build(block: FloatBlock, seen: Statistics, output: Stream) -> QuantTimmVitBlock:
    """The integer block; its output has the scales of ``output``.

    Raises ``ConversionError`` where an integer does not fit, naming block and tensor.
    """
    builder = _Builder(block, seen)
    builder.attention(seen.stream("input"), seen.stream("middle"))
    builder.mlp(seen.stream("middle"), output)
    made = QuantTimmVitBlock.from_state_dict(builder.finish())
    for name, linear in made.get_quantized_layers().items():
        linear.origin = builder.origins[name]
    made.original = block
    return made.to(block.qkv.weight.device)


class _Builder:
    """Collects the state dict of one block."""

    def __init__(self, block: FloatBlock, seen: Statistics) -> None:
        self.block, self.seen = block, seen
        self.state: dict[str, Tensor] = {}
        self.origins: dict[str, LinearOrigin] = {}
        self.integers: dict[str, int] = {}

    def attention(self, before: Stream, after: Stream) -> None:
        """norm1 … residual1."""
        block, seen = self.block, self.seen
        self._expect_narrow(before, after)
        self.state["scales.input"] = before.steps
        read, offset = self._norm("norm1", block.norm1, block.qkv, before)
        linear = self._linear("qkv", block.qkv, read, offset)
        heads, size = block.heads, block.head_dim
        q, k = (self._scale(seen.largest(n) / TOP).expand(heads).contiguous() for n in ("q", "k"))
        v = self._scale(seen.largest("v") / TOP).expand(heads * size)
        written = torch.cat([q.repeat_interleave(size), k.repeat_interleave(size), v])
        self._requantize("qkv_act", linear.scale / written)
        self.state["scales.qkv"] = written
        self._softmax(q * k * block.scale)
        context = self._scale(self._read("context", block.proj)).expand(heads * size)
        gain = self._gain().repeat_interleave(size)
        self._requantize("context_act", v * gain / (_UNIT_WEIGHT * context))
        self.state["scales.context"] = context
        self._linear("proj", block.proj, context)
        self._residual("residual1", "proj", before, after, "middle")

    def mlp(self, before: Stream, after: Stream) -> None:
        """norm2 … residual2."""
        block, seen = self.block, self.seen
        read, offset = self._norm("norm2", block.norm2, block.fc1, before)
        linear = self._linear("fc1", block.fc1, read, offset)
        assert seen.hidden is not None
        table, missing = seen.hidden.best()
        self.integers["fc1_zero_point"] = table.input.zero_point
        self.integers["act_zero_point"] = table.output.zero_point
        self._requantize("act", linear.scale / table.input.scale)
        self.state["act.table"] = table.codes
        written = torch.full((block.fc2.weight.shape[1],), table.output.scale)
        self.state["scales.act"] = written
        self._linear("fc2", block.fc2, written, missing, zero_point=table.output.zero_point)
        self._residual("residual2", "fc2", before, after, "output")

    def finish(self) -> dict[str, Tensor]:
        """The state dict, its header included."""
        block, windows = self.block, self.block.windows or Windows(0, 0)
        bias = self.state.get("softmax.bias")
        layout = Layout(
            channels=block.proj.weight.shape[0],
            heads=block.heads,
            head_dim=block.head_dim,
            hidden=block.fc1.weight.shape[0],
            softmax_code=tables.CODES.index(self.seen.scheme.softmax),
            residual_bits=self.seen.scheme.residual_bits,
            bias_windows=0 if bias is None else bias.shape[0],
            bias_tokens=0 if bias is None else bias.shape[-1],
            window_height=windows.height,
            window_width=windows.width,
            shift_down=windows.shift_down,
            shift_right=windows.shift_right,
            map_rows=windows.rows,
            map_columns=windows.columns,
            **self.integers,
        )
        return {"header": layout.to_tensor(), **self.state}

    def _expect_narrow(self, *streams: Stream) -> None:
        """Raise ``ConversionError`` where the sums of a norm could pass 64 bits."""
        exponent = max(int(s.exponents.max()) for s in streams)
        widest = self.block.norm1.gain.numel() * 2 ** (
            self.seen.scheme.residual_bits - 1 + exponent
        )
        if widest > 2**31:
            raise ConversionError(
                f"The sums of a norm fit 64 bits while channels · 2^(bits − 1 + exponent) is at most 2³¹; "
                f"it is {widest:g} in block {self.seen.name!r}. Choose a smaller Scheme.ptf, or 8 "
                "residual_bits."
            )

    def _norm(self, name: str, norm: Norm, reader: Affine, before: Stream) -> tuple[Tensor, Tensor]:
        """Scales of what a norm gives, and how much its rounded bias is off, each (C,)."""
        scale = self._read(name, reader).expand_as(norm.gain)
        bias = torch.round(norm.bias / scale)
        self.state[f"{name}.shift"] = before.exponents.to(torch.int8)
        self.state[f"{name}.gain"] = as_int32(norm.gain / scale * 2**12, self._what(name))
        self.state[f"{name}.bias"] = as_int32(bias, self._what(name))
        self.state[f"scales.{name}"] = scale
        return scale, norm.bias - bias * scale

    def _linear(
        self,
        name: str,
        affine: Affine,
        read: Tensor,
        offset: Tensor | None = None,
        zero_point: int = 0,
    ) -> LinearOrigin:
        """A linear layer that reads codes worth ``read`` (in,), each off by ``offset`` (in,)."""
        weight, bias = affine.weight * read, affine.bias
        if offset is not None and self.seen.scheme.folding:
            bias = bias + affine.weight @ offset
        # A row of zeros still has to hold its bias in 32 bits.
        scale = torch.maximum(weight.abs().amax(1) / TOP, bias.abs() / 2**30)
        origin = LinearOrigin(weight, bias, self._scale(scale), zero_point)
        codes = origin.nearest()
        self.origins[name] = origin
        self.state[f"{name}.weight"] = codes
        self.state[f"{name}.bias"] = origin.bias_for(codes, self._what(name))
        if name in ("proj", "fc1", "fc2"):
            self.state[f"scales.{name}"] = origin.scale
        return origin

    def _softmax(self, unit: Tensor) -> None:
        """The integer softmax of scores that are worth ``unit`` a head."""
        seen = self.seen
        low, high = seen.range("logits")
        wanted = self._scale(torch.maximum(high / TOP, -low / (TOP + 1)) / self.block.scale)
        step = wanted * self.block.scale
        ratio, what = unit / step, self._what("scores")
        shift = int(shift_of(ratio, what).min())
        self.integers["score_shift"] = shift
        self.state["softmax.multiplier"] = as_int32(ratio * 2.0**shift, what)
        table, self.integers["max_tokens"] = exp_table(float(step), seen.tokens)
        self.state["softmax.exp_table"] = table
        self.state["scales.scores"] = unit
        if self.block.bias is not None:
            self.state["softmax.bias"] = score_bias(self.block.bias, unit)

    def _gain(self) -> Tensor:
        """Factor of each head's context that makes up for the 4-bit weights, (H,)."""
        scheme, agreement = self.seen.scheme, self.seen.agreement
        if agreement is None or not scheme.folding or scheme.power_of_two:
            return torch.ones(self.block.heads)
        ratio = agreement[0] / agreement[1].clamp_min(1e-30)
        return torch.where(ratio > 0, ratio, 1.0).clamp(0.5, 2.0).float()

    def _requantize(self, name: str, ratio: Tensor) -> None:
        multiplier, shift = dyadic(ratio, self._what(name))
        self.state[f"{name}.multiplier"], self.state[f"{name}.shift"] = multiplier, shift

    def _residual(self, name: str, branch: str, before: Stream, after: Stream, where: str) -> None:
        ratios = (before.steps / after.steps, self.origins[branch].scale / after.steps)
        (own, added), shift = common_dyadic(*ratios, what=self._what(name))
        self.state[f"{name}.x_multiplier"], self.state[f"{name}.acc_multiplier"] = own, added
        self.state[f"{name}.shift"] = shift
        self.state[f"scales.{where}"] = after.steps

    def _scale(self, scale: Tensor) -> Tensor:
        """``scale`` as the scheme allows it; 1 for a tensor of zeros."""
        return self.seen.scheme.rounded(torch.where(scale > 0, scale, 1.0))

    def _read(self, name: str, reader: Affine) -> Tensor:
        """Scales of the codes that ``reader`` reads: one a channel with folding, else one."""
        largest = self.seen.largest(name)
        return balanced(largest, reader.weight) if self.seen.scheme.folding else largest / TOP

    def _what(self, tensor: str) -> str:
        return f"{tensor!r} of block {self.seen.name!r}"
