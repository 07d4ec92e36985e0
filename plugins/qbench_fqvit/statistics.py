"""Statistics: what calibration keeps of the tensors of one block, of bounded size."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench_fqvit.float_block import FloatBlock
from qbench_fqvit.hidden import HiddenChoice
from qbench_fqvit.scheme import Scheme
from qbench_fqvit.stream import Stream, StreamChoice
from qbench_suite import (
    ConversionError,
    IntFormat,
    Mode,
    Observer,
    PerTensor,
    Quantizer,
    Range,
)

_TENSOR = Mode(name="tensor", granularity=PerTensor())
_SYMMETRIC = Quantizer(IntFormat(name="int8", bits=8, low=-127, high=127), _TENSOR)
_AFFINE = Quantizer(IntFormat(name="uint8", bits=8, low=0, high=255, affine=True), _TENSOR)
#: Tensors of the residual stream, which have power-of-two factors.
STREAM = ("input", "middle", "output")
#: Every tensor whose range is wanted, in order of execution.
_ORDER = (
    *("input", "norm1", "q", "k", "v", "logits", "context"),
    *("middle", "norm2", "fc1", "act", "output"),
)
#: A logit that far below the largest of its row has a weight below 2⁻¹⁶, which no code tells from 0.
_REACH = 11.1


class Statistics:
    """The ranges of every tensor of a block, the errors of its power-of-two factors, a few sums."""

    def __init__(self, name: str, scheme: Scheme) -> None:
        self.name, self.scheme = name, scheme
        self._extremes: dict[str, Range] = {}
        self._observers: dict[str, Observer] = {}
        self._streams: dict[str, StreamChoice] = {}
        #: Σ c ĉ and Σ ĉ² of context and its 4-bit form, (2, H) float64.
        self.agreement: Tensor | None = None
        #: The choice of the activation's range.
        self.hidden: HiddenChoice | None = None
        #: Whether its output has exponents of its own, and not those of the next block's input.
        self.leaves = True
        #: Most tokens that attended to each other.
        self.tokens = 0

    def observe(self, block: FloatBlock, x: Tensor, stages: dict[str, Tensor]) -> None:
        """See one batch: the block's input and what its steps give on it.

        Raises ``ConversionError`` for NaN and ±Inf, naming block and tensor.
        """
        for name, groups in self._groups(block, x, stages):
            low, high = groups.amin(1), groups.amax(1)
            if not bool(low.isfinite().all() & high.isfinite().all()):
                raise ConversionError(
                    f"Calibration sees finite activations; tensor {name!r} of block {self.name!r} "
                    "holds NaN or ±Inf. Look at the images of that batch and at the weights before it."
                )
            known = self._extremes.get(name, Range(low, high))
            self._extremes[name] = Range(
                torch.minimum(low, known.low), torch.maximum(high, known.high)
            )
            if self.scheme.observer is not None:
                if name not in self._observers:
                    self._observers[name] = self.scheme.observer.observer(_quantizer(name))
                self._observers[name].observe(groups)
        self.tokens = max(self.tokens, stages["softmax"].shape[-1])
        if self.scheme.softmax == "lis4":
            self._agree(block, stages)

    def observe_errors(self, block: FloatBlock, x: Tensor, stages: dict[str, Tensor]) -> None:
        """See one batch once more, now that the ranges are known: what each choice errs."""
        if self.hidden is None:
            self.hidden = HiddenChoice(block, self.range("fc1"), self.range("act"), self.scheme)
        self.hidden.observe(stages)
        for name in STREAM if self.leaves else STREAM[:-1]:
            values = (x if name == "input" else stages[name]).flatten(0, -2)
            if name not in self._streams:
                self._streams[name] = StreamChoice(float(self.largest(name).max()), self.scheme)
            self._streams[name].observe(values)

    def stream(self, name: str) -> Stream:
        """The scales of ``input``, ``middle`` or ``output`` that err least on all images.

        Raises ``ConversionError`` where the second reading of the batches took another way than the
        first, so that nothing is known of an output.
        """
        if name not in self._streams:
            raise ConversionError(
                "Every reading of the batches takes the same way through the model; in the first, "
                f"block {self.name!r} fed another block alone, in the second it did not. Give "
                "calibration a list, or a loader without random choices."
            )
        # One share for the whole block: between unequal scales the stream would be rounded anew.
        errors = [choice.least() for choice in self._streams.values()]
        return self._streams[name].at(int(torch.stack(errors).sum(0).argmin()))

    def range(self, name: str) -> Range:
        """The range of each group of a tensor, float32; 0 is always within."""
        observer = self._observers.get(name)
        low, high = self._extremes[name] if observer is None else observer.range()
        return Range(low.clamp_max(0), high.clamp_min(0))

    def largest(self, name: str) -> Tensor:
        """The largest magnitude of each group of a tensor."""
        low, high = self.range(name)
        return torch.maximum(-low, high)

    def _groups(
        self, block: FloatBlock, x: Tensor, stages: dict[str, Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Every tensor of which a range is wanted, as (groups, elements)."""
        q, k, v = block.heads_of(stages["qkv"])
        logits = block.logits(stages["scores"])
        near = torch.maximum(logits, logits.amax(-1, keepdim=True) - _REACH)
        # (groups, elements) where scales fold into weights.
        free = {
            "norm1": _channels(stages["norm1"]),
            "q": q.transpose(0, 1).flatten(1),
            "k": k.transpose(0, 1).flatten(1),
            "v": v.permute(1, 3, 0, 2).flatten(0, 1).flatten(1),
            "context": _channels(stages["context"]),
            "norm2": _channels(stages["norm2"]),
        }
        whole = {"logits": near, "fc1": stages["fc1"], "act": stages["act"]}
        if not self.scheme.folding:
            whole, free = whole | free, {}
        found = {name: _channels(x if name == "input" else stages[name]) for name in STREAM}
        found |= free | {name: values.reshape(1, -1) for name, values in whole.items()}
        return [(name, found[name]) for name in _ORDER]

    def _agree(self, block: FloatBlock, stages: dict[str, Tensor]) -> None:
        """See how much larger or smaller powers of two make the context than it is."""
        _, _, v = block.heads_of(stages["qkv"])
        weights = stages["softmax"]
        exact, rough = weights @ v, power_of_two_weights(weights) @ v
        sums = [(a * rough).sum((0, 2, 3), dtype=torch.float64) for a in (exact, rough)]
        self.agreement = torch.stack(sums) + (0 if self.agreement is None else self.agreement)


def power_of_two_weights(weights: Tensor) -> Tensor:
    """Attention weights as 4-bit Log-Int-Softmax codes stand for them: ``2^−k``, 0 for k ≥ 16.

    k is the exponent of ``v = round(1 / weight)``, one more where ``v ≥ 1.5 · 2^k``.
    """
    inverse = torch.floor(1 / weights.clamp_min(2.0**-20) + 0.5)
    mantissa, exponent = torch.frexp(inverse)
    k = exponent - 1 + (mantissa >= 0.75).int()
    return torch.where(k < 16, torch.exp2(-k.float()), 0.0)


def _quantizer(name: str) -> Quantizer:
    """What a tensor is quantized by, as an observer wants to know."""
    return _AFFINE if name in ("fc1", "act") else _SYMMETRIC


def _channels(x: Tensor) -> Tensor:
    """(…, C) → (C, elements)."""
    return x.flatten(0, -2).T
