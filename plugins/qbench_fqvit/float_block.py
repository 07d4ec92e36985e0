"""FloatBlock: what a transformer block computes in float, freed of how its module is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from qbench_fqvit.live import LiveFloats
from qbench_fqvit.windows import Windows


@dataclass(frozen=True)
class Norm:
    """LayerNorm over the last axis: ``gain``, ``bias`` (C,) float32."""

    gain: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)


@dataclass(frozen=True)
class Affine:
    """A linear map with its LayerScale folded in: ``weight`` (out, in), ``bias`` (out,) float32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class FloatBlock(LiveFloats):
    """A pre-norm block: ``x + proj(attention(norm1(x)))``, then ``x + fc2(act(fc1(norm2(x))))``."""

    norm1: Norm
    qkv: Affine
    proj: Affine
    norm2: Norm
    fc1: Affine
    act: Callable[[Tensor], Tensor]
    fc2: Affine
    heads: int
    #: Factor of q · k.
    scale: float
    #: Added to the scores: (windows, heads, tokens, tokens), −∞ where a token is masked.
    bias: Tensor | None = None
    windows: Windows | None = None

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.proj.weight.shape[1] // self.heads

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3·H·D) → q, k, v, each (B, H, T, D)."""
        batch, tokens, _ = qkv.shape
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def logits(self, scores: Tensor) -> Tensor:
        """Scores (B, H, T, T) with the bias of their window added."""
        if self.bias is None:
            return scores
        count, *shape = self.bias.shape
        return (scores.reshape(-1, count, *shape) + self.bias).reshape(-1, *shape)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every step on ``x`` (B, T, C), with windows (B, rows, columns, C), in order."""
        found: dict[str, Tensor] = {"norm1": self.norm1(x)}
        tokens = found["norm1"] if self.windows is None else self.windows.partition(found["norm1"])
        found["qkv"] = self.qkv(tokens)
        q, k, v = self.heads_of(found["qkv"])
        found["scores"] = (q * self.scale) @ k.transpose(-2, -1)
        found["softmax"] = self.logits(found["scores"]).softmax(-1)
        context = (found["softmax"] @ v).transpose(1, 2).flatten(2)
        if self.windows is not None:
            context = self.windows.reverse(context, x.shape[1], x.shape[2])
        found["context"] = context
        found["proj"] = self.proj(context)
        found["middle"] = x + found["proj"]
        found["norm2"] = self.norm2(found["middle"])
        found["fc1"] = self.fc1(found["norm2"])
        found["act"] = self.act(found["fc1"])
        found["fc2"] = self.fc2(found["act"])
        found["output"] = found["middle"] + found["fc2"]
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """The block's output on ``x``, of the same shape."""
        return self.stages(x)["output"]
