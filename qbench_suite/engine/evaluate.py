"""Evaluation: one pass over the images, the converted model against its float original."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qbench_suite.convert.sites import Survey
from qbench_suite.convert.watch import watching
from qbench_suite.engine.batches import Batch, ImageSource, require_labels
from qbench_suite.engine.fp32 import FloatLogits
from qbench_suite.engine.halving import Halving, is_out_of_memory
from qbench_suite.engine.tally import LayerSums, Tally
from qbench_suite.engine.unfinished import Unfinished
from qbench_suite.errors import DatasetError, ModelError, QBenchError
from qbench_suite.metrics import AccuracySums, LogitDrift, error_sums, range_sums


@dataclass(frozen=True)
class Pair:
    """A float model and what it was converted to, both on ``device``."""

    original: nn.Module
    converted: nn.Module
    survey: Survey
    device: torch.device

    def float_logits(self, images: Tensor) -> Tensor:
        """Logits of the float model: (images, classes) on the CPU."""
        return _logits(self.original, images.to(self.device))

    def converted_logits(self, images: Tensor) -> Tensor:
        """Logits of the converted model: (images, classes) on the CPU."""
        return _logits(self.converted, images.to(self.device))

    def lockstep(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, LayerSums]]:
        """Logits of both models, and the sums of every site that both reach.

        The outputs of the float model's sites are kept for these images only, and each goes as soon
        as it has been compared. The n-th call of a site is compared with its n-th call.
        """
        kept: defaultdict[str, deque[Tensor]] = defaultdict(deque)
        layers: defaultdict[str, LayerSums] = defaultdict(LayerSums)

        def keep(site: str, _: tuple[Tensor, ...], output: Tensor) -> None:
            kept[site].append(output)

        def compare(site: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if kept[site]:
                read = [range_sums(x) for x in inputs[:1]]
                error = error_sums(kept[site].popleft(), output)
                layers[site] += LayerSums(error, *read)

        images = images.to(self.device)
        with watching(self.original, self.survey, keep):
            reference = _logits(self.original, images)
        with watching(self.converted, self.survey, compare):
            logits = _logits(self.converted, images)
        return reference, logits, dict(layers)


@dataclass
class Evaluation:
    """What an evaluation needs, and ``run``."""

    pair: Pair
    source: ImageSource
    floats: FloatLogits
    batch: int
    layerwise: bool
    broken_limit: int
    unfinished: Unfinished
    #: Told images done and images in all.
    progress: Callable[[int, int], None]
    #: How many images go through the models at once.
    halving: Halving

    @torch.no_grad()
    def run(self) -> Tally:
        """Sums over all images, those of an unfinished evaluation of the same kind included.

        Raises ``DatasetError`` for labels that are none of the model's classes, for too many images
        that cannot be read, and where none can; ``ConversionError`` where one image needs more
        memory than there is. What was summed up until then is kept for a later run.
        """
        state = self.unfinished.load()
        tally = Tally.from_json(state) if state else Tally()
        if tally.batch:
            self.halving.limit = self.halving.size(tally.batch)
        try:
            for batch in self.source.batches(self.batch, tally.position):
                # Each batch is added whole or not at all, wherever an interrupt strikes.
                tally = tally + self._sums(batch, tally.skipped)
                self.progress(tally.position, len(self.source))
                if self.unfinished.due():
                    self._keep(tally)
        except BaseException:
            self._keep(tally)
            raise
        self.floats.save()
        if not tally.accuracy.images:
            raise DatasetError(
                f"An evaluation needs an image that can be read; of {len(self.source)} none can, "
                f"first: {tally.skipped[0]}. Mend the dataset."
            )
        return tally

    def _keep(self, tally: Tally) -> None:
        self.unfinished.save(tally.to_json())
        self.floats.save()

    def _sums(self, batch: Batch, skipped_before: tuple[str, ...]) -> Tally:
        skipped = skipped_before + batch.skipped
        if len(skipped) > self.broken_limit:
            raise DatasetError(
                f"At most {self.broken_limit} images may be left out because they cannot be read; "
                f"these cannot: {'; '.join(skipped)}. Mend them, or raise --qbench-broken-images."
            )

        def measure(part: slice) -> Tally:
            labels = None if batch.labels is None else batch.labels[part]
            return self._measure(batch.images[part], labels)

        what = "An evaluation" + (" with layer-wise metrics" if self.layerwise else "")
        parts = self.halving.over(len(batch.images), self.batch, measure, what)
        found = sum(parts, start=Tally())
        size = self.halving.size(self.batch)
        return replace(found, position=batch.end, batch=size, skipped=batch.skipped)

    def _measure(self, images: Tensor, labels: Tensor | None) -> Tally:
        layers: dict[str, LayerSums] = {}
        if self.layerwise:
            reference, logits, layers = self.pair.lockstep(images)
            self.floats.put(images, reference)
        else:
            reference = self.floats.logits(images, self.pair.float_logits)
            logits = self.pair.converted_logits(images)
        if labels is not None:
            require_labels(labels, logits.shape[1], self.source.inputs.dataset)
        return Tally(
            accuracy=AccuracySums.of(logits, labels),
            reference=AccuracySums.of(reference, labels),
            drift=LogitDrift.of(reference, logits, labels),
            error=error_sums(reference, logits),
            layers=layers,
        )


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """What ``model`` gives, on the CPU; raises ``ModelError`` where that is not (images, classes)."""
    try:
        found = model(images)
    except (QBenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"A model runs on images of its input_size; {type(model).__name__} raised "
            f"{type(error).__name__} on {tuple(images.shape)}: {error}. Mend its entry, or its layers."
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"A classifier gives logits of shape (images, classes); {type(model).__name__} gave "
            f"{shape} for {len(images)} images. Register a model that does."
        )
    return found.detach().float().cpu()
