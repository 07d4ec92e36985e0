"""A model case: a whole model converted by a policy, against its float original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qbench_suite.calibration import calibrate
from qbench_suite.compliance import ComplianceRules, ModelCompliance, read_rules
from qbench_suite.convert.assign import Assignment, assign
from qbench_suite.convert.coverage import measure_coverage
from qbench_suite.convert.kernels import attach_kernels
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.engine.effective_bits import (
    FLOAT_BITS,
    mean_operand_bits,
    operand_bits,
    packed_bytes,
    parameter_bits,
    weight_bits_of,
)
from qbench_suite.engine.evaluate import Evaluation, Pair
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.identity import identity, rounding_facts
from qbench_suite.engine.model_columns import (
    describe_compliance,
    describe_kernels,
    describe_layers,
    describe_policy,
    describe_rounding,
    describe_tally,
    describe_unrounded,
    layer_rows,
)
from qbench_suite.engine.paired import ratio, time_paired
from qbench_suite.engine.rounding import WeightRounding, passes, planned_layers
from qbench_suite.engine.rounding_cache import RoundingCache
from qbench_suite.engine.unfinished import Unfinished
from qbench_suite.errors import DatasetError
from qbench_suite.results import ModelRow
from qbench_suite.timing import Timer, synchronised

if TYPE_CHECKING:
    from qbench_suite.engine.batches import ImageSource
    from qbench_suite.engine.engine import Engine
    from qbench_suite.engine.grid import ModelCase


@torch.no_grad()
def run_model_case(engine: Engine, case: ModelCase, row: ModelRow, timer: Timer) -> None:
    """Fill ``row`` and its details: accuracy, drift, coverage, bits, compliance, latency, outcome.

    Each part is written to the row as soon as it is known, so that whatever is raised later leaves
    it there.
    """
    policy = engine.policy(case.policy)
    row.policy_hash = policy.digest
    subject = engine.subjects.get(case.model)
    row.dataset, row.preprocessing = subject.dataset, subject.source.inputs.preprocessing
    row.multiply_adds = subject.survey.multiply_adds
    assignments = assign(policy, subject.survey, engine.manager, seed=engine.settings.seed)
    run = _Run(engine, case, row, assignments)
    describe_policy(row, policy, run.assignments)
    run.calibrate()
    run.round_weights()
    run.describe_coverage()
    run.describe_bits()
    run.check_compliance()
    run.attach_kernels()
    run.evaluate()
    run.time(timer)
    _judge(engine, case, row, policy.name)


class _Run:
    """One model case while it is being measured."""

    def __init__(
        self,
        engine: Engine,
        case: ModelCase,
        row: ModelRow,
        assignments: tuple[Assignment, ...],
    ) -> None:
        subject, policy = engine.subjects.get(case.model), engine.policy(case.policy)
        self.engine, self.case, self.row = engine, case, row
        self.halving = Halving(engine.device)
        self.subject, self.policy = subject, policy
        original, folds = subject.model.module, policy.fold_batch_norm
        converted: ConvertedModel = convert(
            original, subject.survey, assignments, fold_batch_norm=folds
        )
        self.converted = converted.to(engine.device).eval()
        self.assignments = converted.assignments
        self.layers = layer_rows(case.id, case.model, case.policy, self.assignments)
        row.details.extend(self.layers.values())
        self.pair = Pair(original, self.converted, subject.survey, engine.device)

    def calibrate(self) -> None:
        """Static scales, from training images that the row names."""
        if not self.policy.static:
            return
        source, device = self._calibration(), self.engine.device

        def observe(size: int) -> int:
            batches = (batch.images.to(device) for batch in source.batches(size))
            return calibrate(self.converted.layers, self.converted, batches)

        wanted = self.policy.calibration
        seen = self.halving.run(wanted.batch, observe, "Calibration")
        self.row.calibration = f"{source.inputs.dataset}, {seen} images, seed {wanted.seed}"

    def round_weights(self) -> None:
        """Weights by the rules that the policy names, from the same images.

        Static scales come before, as rules round by what layers read on them, and once more after,
        as layers then read something else.
        """
        describe_unrounded(self.layers, self.assignments)
        planned = planned_layers(self.pair.original, self.converted)
        if not planned:
            return
        source, settings = self._calibration(), self.engine.settings
        wanted, name = self.policy.calibration, f"{self.case.id} rounding"
        groups = passes(planned, settings.cache_bytes)
        facts = rounding_facts(settings, self.subject, self.policy, self.converted, source)
        facts["passes"] = [[layer.name for layer in group] for group in groups]
        found = WeightRounding(
            original=self.pair.original,
            converted=self.converted,
            groups=groups,
            source=source,
            halving=self.halving,
            device=self.engine.device,
            cache=RoundingCache(settings.fp32_cache, self.case.model, facts),
            batch=wanted.batch,
            seed=settings.seed,
            progress=lambda done, total: self.engine.progress(name, done, total),
        ).run()
        describe_rounding(self.row, self.layers, self.assignments, found)
        self.row.calibration = f"{source.inputs.dataset}, {len(source)} images, seed {wanted.seed}"
        self.calibrate()

    def _calibration(self) -> ImageSource:
        """The training images that the policy calibrates on."""
        wanted = self.policy.calibration
        dataset = wanted.dataset or self.subject.dataset
        try:
            return self.engine.subjects.calibration(
                self.case.model, dataset, wanted.images, wanted.seed
            )
        except DatasetError as error:
            what = "static scales" if self.policy.static else "weight_rounding"
            raise DatasetError(
                f"Calibration for {what} reads the training split of {dataset!r}. {error} A policy "
                "names another one in calibration: dataset."
            ) from error

    def describe_coverage(self) -> None:
        """Share of the multiply-adds that read something quantized, of the model and of each layer."""
        sample, surveyed = self.subject.sample, self.subject.survey
        found = self.halving.run(
            len(sample),
            lambda images: measure_coverage(self.converted, surveyed, sample[:images]),
            "A look at coverage",
        )
        row, total = self.row, sum(site.multiply_adds for site in found.values())
        if total:
            row.coverage = sum(site.one for site in found.values()) / total
            row.full_coverage = sum(site.both for site in found.values()) / total
        for name, site in found.items():
            if site.multiply_adds and name in self.layers:
                self.layers[name].coverage = site.one / site.multiply_adds
        row.quantized_layers = sum(bool(a.quantizers) for a in self.assignments)
        row.float_layers = len(self.assignments) - row.quantized_layers

    def describe_bits(self) -> None:
        """Effective bits of parameters and of operands."""
        row, layers = self.row, self.converted.layers
        for assignment in self.assignments:
            site = assignment.site
            bits = weight_bits_of(layers[site.name]).mean if site.name in layers else None
            float_bits = FLOAT_BITS if site.weight_elements else None
            self.layers[site.name].weight_bits = float_bits if bits is None else bits
        parameters = parameter_bits(self.pair.original, layers.values())
        row.weight_bits, row.weight_bytes = parameters.mean, packed_bytes(parameters)
        sample = self.subject.sample
        read = self.halving.run(
            len(sample),
            lambda images: operand_bits(self.converted, sample[:images]),
            "A look at effective bits",
        )
        row.input_bits = mean_operand_bits(self.subject.survey, read)

    def check_compliance(self) -> None:
        """Weights as they are held, and activations of the first images while they are quantized."""
        rules, size = read_rules(self.engine.settings.compliance), self.engine.settings.eval_batch
        limit = rules.limits.images
        size = size if limit is None else max(min(size, limit), 1)
        found = self.halving.run(size, lambda images: self._check(rules, images), "Compliance")
        describe_compliance(self.row, self.layers, found)

    def _check(self, rules: ComplianceRules, size: int) -> ModelCompliance:
        found = ModelCompliance(rules)
        found.check_weights(self.converted.layers)
        for batch in self.subject.source.batches(size, ahead=False):
            if not found.wants_images:
                break
            if len(batch.images):
                with found.watching(self.converted.layers, len(batch.images)):
                    self.converted(batch.images.to(self.engine.device))
        return found

    def attach_kernels(self) -> None:
        """What was emulated until now is computed where the policy says so, from the same codes."""
        found = attach_kernels(self.converted, self.policy, self.engine.device)
        describe_kernels(self.row, self.layers, self.assignments, found)

    def evaluate(self) -> None:
        """Accuracy and drift over all images."""
        engine, settings = self.engine, self.engine.settings
        known = identity(settings, self.subject, self.policy, self.converted)
        source = self.subject.source
        unfinished = Unfinished(settings.unfinished, self.case.id, known, source.content)
        evaluation = Evaluation(
            pair=self.pair,
            source=source,
            floats=self.subject.floats,
            batch=settings.eval_batch,
            layerwise=settings.layerwise,
            broken_limit=settings.broken_images,
            unfinished=unfinished,
            progress=lambda done, total: engine.progress(self.case.id, done, total),
            halving=self.halving,
        )
        tally = evaluation.run()
        describe_tally(self.row, tally)
        describe_layers(self.layers, tally.layers)
        unfinished.finish()

    def time(self, timer: Timer) -> None:
        """Latency of both models on one batch, without and with layer-wise metrics."""
        row, pair, device = self.row, self.pair, self.engine.device
        sample = self.subject.source.sample(row.batch or 1)

        def rehearse(images: int) -> Tensor:
            part = sample[:images].to(device)
            pair.original(part), pair.converted(part)
            return part

        # A timer may serve once only: what memory has no room for shows before it.
        images = self.halving.run(len(sample), rehearse, "Timing")
        row.batch = self.halving.size(row.batch or 1)
        float_call = synchronised(lambda: pair.original(images), device)
        time_paired(row, synchronised(lambda: pair.converted(images), device), float_call, timer)
        if row.rounds and self.engine.settings.layerwise:
            row.layerwise_slowdown = self.halving.run(
                len(images), lambda size: self._slowdown(images[:size]), "Timing"
            )
            row.batch = self.halving.size(row.batch)

    def _slowdown(self, images: Tensor) -> float:
        """Time with layer-wise metrics over that of the float model."""
        pair, device = self.pair, self.engine.device
        both = synchronised(lambda: pair.lockstep(images), device)
        return ratio(both, synchronised(lambda: pair.original(images), device))


def _judge(engine: Engine, case: ModelCase, row: ModelRow, policy: str) -> None:
    gate = engine.gates.min_sqnr_db("models", policy, "*", case.model)
    row.outcome = "failed"
    if row.compliant is False:
        row.reason = (
            f"Every quantized value is q · scale for a q of its format; {row.violations} of "
            f"{case.model} are not, first {row.violation}. Check what took part: "
            f"{engine.parties(case, row)}."
        )
    elif row.nonfinite_count:
        row.reason = (
            f"A finite logit stays finite; {row.nonfinite_count} of {row.images} images became NaN or "
            f"Inf in {case.policy}. Look in table model_layers where they begin, and leave that float."
        )
    elif row.fp32_nonfinite_count:
        row.reason = (
            f"A float model gives finite logits; {row.fp32_nonfinite_count} of {case.model} are NaN or "
            "Inf, so that there is little to compare with. Check its weights and its inputs."
        )
    elif gate is not None and row.sqnr_db is not None and row.sqnr_db < gate:
        row.reason = (
            f"sqnr_db of the logits of {case.model} in {policy} is at least {gate:g} dB; got "
            f"{row.sqnr_db:.2f} dB. Use a finer policy, or another gate table (--qbench-gates)."
        )
    else:
        row.outcome = "passed"
