"""Calibration: what every block of a model sees on all batches, in two passes of bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qbench_fqvit.chain import Chain
from qbench_fqvit.families import Unsupported, describe, find_blocks
from qbench_fqvit.float_block import FloatBlock
from qbench_fqvit.scheme import Scheme
from qbench_fqvit.statistics import Statistics
from qbench_suite import ConversionError

#: Relative difference between a block and its description beyond which they are two things.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.05


@dataclass(frozen=True)
class Calibrated:
    """What calibration gives of one block."""

    block: FloatBlock
    seen: Statistics
    #: The block whose output this one reads, always and as its only reader; None for another.
    source: str | None


@torch.no_grad()
def calibration(
    model: nn.Module, batches: Iterable[Tensor], scheme: Scheme
) -> tuple[dict[str, Calibrated], dict[str, str]]:
    """What each block of ``model`` sees on all of ``batches``, and why other blocks stay float.

    ``batches`` is read twice: the first pass collects ranges, the second the error of every power-of-two
    factor on them. While it runs, the blocks of ``model`` are others; after it they are the same again.

    Raises ``ConversionError`` without an image, for batches that are no tensors or can be read once
    alone, where a block's tensor holds NaN or ±Inf, and where no block can be converted.
    """
    _expect_sound(model, batches, scheme)
    chain = Chain()
    originals, refused = dict(find_blocks(model)), {}
    watched: dict[str, _Watched] = {}
    for name, module in originals.items():
        try:
            watched[name] = _Watched(name, module, describe(module), scheme, chain)
        except Unsupported as reason:
            refused[name] = str(reason)
    training = model.training
    try:
        for name, watch in watched.items():
            model.set_submodule(name, watch)
        images = _pass(model.eval(), batches, watched, chain)
        _pass(model, batches, watched, chain, second=True)
    finally:
        for name in watched:
            model.set_submodule(name, originals[name])
        model.train(training)
    if images == 1:
        warnings.warn(
            "Calibration saw one image: scales that fit it may clip others. A few dozen are better.",
            RuntimeWarning,
            stacklevel=3,
        )
    refused |= {name: w.refusal for name, w in watched.items() if w.refusal}
    found = {
        name: Calibrated(w.block, w.seen, chain.source(name))
        for name, w in watched.items()
        if not w.refusal
    }
    _expect_some(found, refused)
    return found, refused


def _pass(
    model: nn.Module,
    batches: Iterable[Tensor],
    watched: Mapping[str, _Watched],
    chain: Chain,
    *,
    second: bool = False,
) -> int:
    """Show all batches to the model; how many images they hold."""
    sources = {chain.source(name) for name, watch in watched.items() if not watch.refusal}
    for name, watch in watched.items():
        watch.second, watch.seen.leaves = second, name not in sources
    images = 0
    for batch in batches:
        _expect_images(batch)
        images += batch.shape[0]
        if batch.shape[0]:
            with chain:
                output = model(batch)
            # The chain has seen which outputs of blocks are part of it.
            del output
    if not images:
        raise ConversionError(
            "Integer scales come from at least one image; calibration got none. Give it a few batches "
            "of images of the kind the model will see."
        )
    for watch in watched.values():
        if not watch.refusal and not watch.seen.tokens:
            watch.refusal = "calibration never reached it"
    return images


def _expect_sound(model: nn.Module, batches: Any, scheme: Any) -> None:
    """Raise ``ConversionError`` for arguments that calibration cannot start from."""
    if not isinstance(scheme, Scheme):
        raise ConversionError(
            f"Blocks are converted by a Scheme; got {type(scheme).__name__}. Write Scheme(ptf=…, …)."
        )
    if isinstance(batches, Tensor | Iterator) or not isinstance(batches, Iterable):
        raise ConversionError(
            "Calibration reads its batches twice, so it takes a list of them or a DataLoader; got "
            f"{type(batches).__name__}. Write list(batches), or [images] for one batch."
        )
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise ConversionError(
            "Calibration runs the model, so its weights hold values; got some on the meta device. Load "
            "them first."
        )
    if any(name == "" for name, _ in find_blocks(model)):
        raise ConversionError(
            f"A model to convert holds transformer blocks; got a {type(model).__name__}, one itself. "
            "Use QuantTimmVitBlock.from_float, or wrap it in nn.Sequential."
        )


def _expect_images(batch: Any) -> None:
    """Raise ``ConversionError`` for anything but a batch of images."""
    if not isinstance(batch, Tensor) or not batch.dim():
        inside = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else ""
        raise ConversionError(
            "A batch for calibration is a tensor of images, as the model takes it; got "
            f"{type(batch).__name__} {inside}. Of pairs of images and labels give the images: "
            "[images for images, _ in loader]."
        )


def _expect_some(found: Mapping[str, object], refused: Mapping[str, str]) -> None:
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ConversionError(
            "A model to convert holds at least one transformer block of timm that can run in integers; "
            f"this one holds none ({reasons or 'nothing with attention in it'}). Take a ViT, DeiT, "
            "BEiT or Swin of timm."
        )


class _Watched(nn.Module):
    """A block during calibration: computes as described, and shows every step to its statistics."""

    def __init__(
        self, name: str, original: nn.Module, block: FloatBlock, scheme: Scheme, chain: Chain
    ) -> None:
        super().__init__()
        self.name, self.original, self.block, self.chain = name, original, block, chain
        self.seen = Statistics(name, scheme)
        #: Why the block stays float; empty while nothing speaks against it.
        self.refusal = ""
        self.second = False
        self._shared: Tensor | None = None
        self._described = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with self.chain.inside(self.name, x) as outputs:
            outputs.append(self._run(x, args, kwargs))
        return outputs[0]

    def _run(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.refusal:
            self._check(x, args, kwargs)
        if self.refusal:
            return self.original(x, *args, **kwargs)
        stages = self.block.stages(x.float())
        if self.second:
            self.seen.observe_errors(self.block, x.float(), stages)
        else:
            self.seen.observe(self.block, x.float(), stages)
        return stages["output"].to(x.dtype)

    def _check(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take a bias shared by all blocks into the description; refuse what it does not cover."""
        others = [v for k, v in kwargs.items() if k != "shared_rel_pos_bias"]
        if any(value is not None and value is not False for value in (*args, *others)):
            self.refusal = "the model gives it a mask, or another argument, when it calls it"
            return
        shared = kwargs.get("shared_rel_pos_bias")
        if not self._described:
            self._described, self._shared = True, shared
            self._describe(x[:1], kwargs)
        elif not _same(shared, self._shared):
            self.refusal = "the bias that it shares with other blocks differs from call to call"

    def _describe(self, one: Tensor, kwargs: dict[str, Any]) -> None:
        if self._shared is not None:
            own, shared = (
                self.block.bias,
                self._shared.float().reshape(-1, *self._shared.shape[-3:]),
            )
            self.block = replace(self.block, bias=shared + (0 if own is None else own))
        expected = self.original(one, **kwargs).float()
        off = (self.block(one.float()) - expected).norm() / expected.norm()
        if off > (_TOLERANCE if one.dtype == torch.float32 else _HALF_TOLERANCE):
            self.refusal = (
                f"it computes something else than its class does (relative difference {off:.2g}): "
                "it has hooks, or a method of its own"
            )


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right)
