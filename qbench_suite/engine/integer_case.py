"""An integer case: a model of which blocks run in integers, against its float original."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qbench_suite.compliance import read_rules
from qbench_suite.engine.batches import ImageSource
from qbench_suite.engine.evaluate import Evaluation, Pair
from qbench_suite.engine.fingerprint import fingerprint
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.inputs import RANDOM
from qbench_suite.engine.integer_blocks import (
    BRANCH,
    audited,
    calls_of,
    describe_verdicts,
    stage_rows,
    state_bytes,
    structures,
)
from qbench_suite.engine.integer_timing import time_block, time_model
from qbench_suite.engine.model_columns import describe_tally
from qbench_suite.engine.unfinished import Unfinished
from qbench_suite.errors import ConversionError, DatasetError
from qbench_suite.integers import IntegerModel
from qbench_suite.results.integer_rows import IntegerRow, IntegerStageRow
from qbench_suite.timing import Timer

if TYPE_CHECKING:
    from qbench_suite.engine.arithmetic_grid import IntegerCase
    from qbench_suite.engine.engine import Engine

#: Inputs of ``random`` where no number is asked for: they tell how far logits drift, no accuracy.
_RANDOM_IMAGES = 16
#: Images that the steps of blocks are compared on.
_STAGE_IMAGES = 4
#: Images that blocks are audited on, so that a batch axis is there.
_AUDIT_IMAGES = 2
#: Images that latencies are of.
_TIMED_IMAGES = 8


@torch.no_grad()
def run_integer_case(engine: Engine, case: IntegerCase, row: IntegerRow, timer: Timer) -> None:
    """Fill ``row`` and its details: conversion, accuracy, steps, audits, latency, outcome.

    Each part is written to the row as soon as it is known, so that whatever is raised later leaves
    it there.
    """
    run = _Run(engine, case, row)
    run.evaluate()
    run.compare_stages()
    run.audit()
    run.time(timer)
    _judge(engine, case, row)


class _Run:
    """One integer case while it is being measured."""

    def __init__(self, engine: Engine, case: IntegerCase, row: IntegerRow) -> None:
        self.engine, self.case, self.row = engine, case, row
        self.halving = Halving(engine.device)
        self.subject = engine.subjects.get(case.model)
        self.original = self.subject.model.module
        row.dataset = self.subject.dataset
        row.preprocessing = self.subject.source.inputs.preprocessing
        self.source = self._source()
        self.converted = self._convert()
        self._describe_conversion()

    def _source(self) -> ImageSource:
        """The images evaluated: fewer than other cases have where they are random anyway."""
        settings, subject = self.engine.settings, self.subject
        if subject.dataset != RANDOM or settings.images is not None:
            return subject.source
        return ImageSource(
            self.engine.manager,
            subject.model.entry,
            RANDOM,
            images=_RANDOM_IMAGES,
            seed=settings.seed,
            cache_bytes=settings.cache_bytes // 2,
        )

    def _convert(self) -> IntegerModel:
        method = self.engine.manager.integer_methods.get(self.case.method)
        settings, device, dataset = self.engine.settings, self.engine.device, self.subject.dataset
        images = settings.integer_calibration
        if dataset == RANDOM:
            images = min(images, _RANDOM_IMAGES)
        try:
            source = self.engine.subjects.calibration(
                self.case.model, dataset, images, settings.seed
            )
        except DatasetError as error:
            raise DatasetError(
                f"Calibration reads the training split of {dataset!r}. {error}"
            ) from error

        def convert(size: int) -> IntegerModel:
            batches = [b.images.to(device) for b in source.batches(size) if len(b.images)]
            seen = sum(map(len, batches))
            if not seen:
                raise ConversionError(
                    f"Calibration needs an image that can be read; of {len(source)} of the training "
                    f"split of {dataset!r} none can. Mend the dataset."
                )
            self.row.calibration = f"{dataset}, {seen} images, seed {settings.seed}"
            start = time.perf_counter()
            converted = method.convert(self.original, batches)
            self.row.calibration_s = time.perf_counter() - start
            return converted

        return self.halving.run(settings.eval_batch, convert, "Calibration")

    def _describe_conversion(self) -> None:
        row, blocks, refused = self.row, self.converted.blocks, self.converted.refused
        row.blocks, row.refused_blocks = len(blocks), len(refused)
        row.refused = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        if not blocks:
            raise ConversionError(
                f"A method converts a block at least; {self.case.method} converts none of "
                f"{self.case.model}: {row.refused or 'it has none'}. Choose another model or method."
            )
        row.state_bytes = state_bytes(blocks.values())
        row.fp32_state_bytes = state_bytes(map(self.original.get_submodule, blocks))

    def evaluate(self) -> None:
        """Accuracy and drift over all images."""
        engine, settings, subject = self.engine, self.engine.settings, self.subject
        module = self.converted.module.eval()
        facts = self._identity() if settings.unfinished else {}
        unfinished = Unfinished(settings.unfinished, self.case.id, facts, self.source.content)
        evaluation = Evaluation(
            pair=Pair(self.original, module, subject.survey, engine.device),
            source=self.source,
            floats=subject.floats,
            batch=settings.eval_batch,
            layerwise=False,
            broken_limit=settings.broken_images,
            unfinished=unfinished,
            progress=lambda done, total: engine.progress(self.case.id, done, total),
            halving=self.halving,
        )
        describe_tally(self.row, evaluation.run())
        unfinished.finish()

    def _identity(self) -> Mapping[str, str]:
        """Digests of what the sums depend on beyond the images themselves, each by what it is of."""
        settings, source = self.engine.settings, self.source
        facts: dict[str, Any] = {
            "model": self.subject.fingerprint,
            "blocks": fingerprint(self.converted.module, self.engine.device),
            "dataset": [self.subject.dataset, source.inputs.preprocessing],
            "chosen images": [len(source.inputs), source.indices],
            "settings": [settings.seed, settings.eval_batch, settings.device],
        }
        return {k: hashlib.sha256(json.dumps(v).encode()).hexdigest() for k, v in facts.items()}

    def compare_stages(self) -> None:
        """Error of each step of each block, on what the float block reads."""
        row, blocks = self.row, self.converted.blocks
        images = self._images(_STAGE_IMAGES)

        def compare(count: int) -> list[IntegerStageRow]:
            calls = calls_of(self.original, blocks, images[:count])
            row.stage_images = count
            return [
                self._placed(name, stage)
                for name, block in blocks.items()
                for stage in stage_rows(block, calls[name])
            ]

        stages = self.halving.run(len(images), compare, "A look at the steps of blocks")
        for order, stage in enumerate(stages):
            stage.order = order
        row.details.extend(stages)
        branches = {s.block: s.sqnr_db for s in stages if s.stage == BRANCH}
        known = {block: db for block, db in branches.items() if db is not None}
        if known:
            row.worst_block = min(known, key=known.__getitem__)
            row.branch_sqnr_db = known[row.worst_block]
            row.branch_sqnr_mean_db = math.fsum(known.values()) / len(known)

    def _placed(self, block: str, stage: IntegerStageRow) -> IntegerStageRow:
        stage.case, stage.model, stage.method = self.case.id, self.case.model, self.case.method
        stage.block = block
        return stage

    def audit(self) -> None:
        """Whether no float operation runs in a block of each structure."""
        rules = read_rules(self.engine.settings.compliance).integer
        blocks = self.converted.blocks
        calls = calls_of(self.original, blocks, self._images(_AUDIT_IMAGES))
        chosen = structures(blocks, calls)
        verdicts = {name: audited(blocks[name], calls[name], rules) for name in chosen}
        describe_verdicts(self.row, verdicts)

    def time(self, timer: Timer) -> None:
        """Latency of the block in the middle and of the whole model, beside their float twins."""
        row, blocks, module = self.row, self.converted.blocks, self.converted.module
        sample = self._images(_TIMED_IMAGES)
        name = list(blocks)[len(blocks) // 2]
        part = self.original.get_submodule(name)

        def rehearse(count: int) -> Tensor:
            self.original(sample[:count]), module(sample[:count])
            return sample[:count]

        # A timer may serve once only: what memory has no room for shows before it.
        images = self.halving.run(len(sample), rehearse, "Timing")
        row.timed_block, row.timed_batch = name, len(images)
        call = calls_of(self.original, [name], images)[name]
        compiles = self.engine.settings.compiled_twin
        time_block(row, blocks[name], part, call, timer, compiles=compiles)
        if row.rounds:
            time_model(row, module, self.original, images)

    def _images(self, count: int) -> Tensor:
        return self.source.sample(self.halving.size(count)).to(self.engine.device)


def _judge(engine: Engine, case: IntegerCase, row: IntegerRow) -> None:
    row.min_sqnr_db = gate = engine.gates.min_sqnr_db("integers", case.method, "*", case.model)
    row.outcome = "failed"
    if row.integer_only is False:
        row.reason = (
            f"No float operation runs in an integer block; blocks of {case.method} in {case.model} "
            f"have {row.float_operations} uses of floats and {row.float_instructions} float "
            f"instructions: {row.audits}. Check what took part: {engine.parties(case, row)}."
        )
    elif row.fp32_nonfinite_count:
        row.reason = (
            f"A float model gives finite logits; {row.fp32_nonfinite_count} of {case.model} are NaN or "
            "Inf, so that there is little to compare with. Check its weights and its inputs."
        )
    elif row.nonfinite_count:
        row.reason = (
            f"A finite logit stays finite; {row.nonfinite_count} of {row.images} images became NaN or "
            f"Inf in {case.method}. Check what took part: {engine.parties(case, row)}."
        )
    elif gate is not None and row.sqnr_db is not None and row.sqnr_db < gate:
        row.reason = (
            f"sqnr_db of the logits of {case.model} by {case.method} is at least {gate:g} dB; got "
            f"{row.sqnr_db:.2f} dB. Use another method, or another gate table (--qbench-gates)."
        )
    else:
        row.outcome = "passed"
