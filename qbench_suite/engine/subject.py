"""Subject: a float model on a dataset, with what every policy's case of it shares."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from qbench_suite.convert.survey import survey
from qbench_suite.engine.batches import ImageSource, require_classes
from qbench_suite.engine.fingerprint import fingerprint
from qbench_suite.engine.fp32 import FloatLogits
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.inputs import RANDOM
from qbench_suite.engine.pool import LoadedModel

if TYPE_CHECKING:
    from qbench_suite.convert.sites import Survey
    from qbench_suite.engine.engine import Engine

#: Images that a model is run on to see what it is made of.
_SAMPLE = 2


@dataclass(frozen=True)
class Subject:
    """A float model, the images it is evaluated on, and what follows from the two alone."""

    model: LoadedModel
    dataset: str
    source: ImageSource
    #: A few of the images, on the device.
    sample: Tensor
    survey: Survey
    floats: FloatLogits
    #: Of the float model: weights, code, plain attributes, versions and device.
    fingerprint: str


class Subjects:
    """The subject at hand, and calibration images; cases are sorted by model, so one is enough."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.get = functools.lru_cache(maxsize=1)(self._make)
        self.calibration = functools.lru_cache(maxsize=1)(self._calibration)

    def _make(self, name: str) -> Subject:
        """The subject of the model ``name``; raises for datasets that do not suit it."""
        engine, settings = self._engine, self._engine.settings
        model = engine.pool.get(name)
        dataset = engine.dataset_of(model)
        if dataset != RANDOM:
            require_classes(model.entry, engine.manager.datasets.get(dataset))
        source = ImageSource(
            engine.manager,
            model.entry,
            dataset,
            images=settings.images,
            seed=settings.seed,
            cache_bytes=settings.cache_bytes // 2,
        )
        images = source.sample(_SAMPLE)

        def look(count: int) -> tuple[Tensor, Survey]:
            sample = images[:count].to(engine.device)
            return sample, survey(model.module, sample, engine.manager)

        what = f"The survey of {name}"
        sample, surveyed = Halving(engine.device).run(len(images), look, what)
        found = fingerprint(model.module, engine.device)
        return Subject(
            model=model,
            dataset=dataset,
            source=source,
            sample=sample,
            survey=surveyed,
            floats=FloatLogits(name, found, settings.fp32_cache),
            fingerprint=found,
        )

    def _calibration(self, name: str, dataset: str, images: int, seed: int) -> ImageSource:
        """Training images of ``dataset`` as inputs of the model ``name``."""
        engine = self._engine
        return ImageSource(
            engine.manager,
            engine.pool.get(name).entry,
            dataset,
            split="train",
            images=images,
            seed=seed,
            cache_bytes=engine.settings.cache_bytes // 4,
        )
