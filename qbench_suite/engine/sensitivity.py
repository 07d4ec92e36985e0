"""Sensitivity: what quantizing each layer by itself, and all but each, does to a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench_suite.calibration.run import calibrate
from qbench_suite.convert.assign import Assignment, assign
from qbench_suite.convert.policy import Policy
from qbench_suite.convert.swap import ConvertedModel, convert
from qbench_suite.engine.batches import Batch, require_labels
from qbench_suite.engine.candidate import Candidate, naming, require_alike
from qbench_suite.engine.effective_bits import FLOAT_BITS, BitSum
from qbench_suite.engine.effects import Effect, EffectJournal
from qbench_suite.engine.engine import Engine
from qbench_suite.engine.evaluate import Pair
from qbench_suite.engine.halving import Halving
from qbench_suite.engine.layer_sensitivity import LayerSensitivity
from qbench_suite.errors import ModelError, SelectionError
from qbench_suite.metrics import AccuracySums, LogitDrift

#: The policy by name that each quantized site follows; sites that are absent stay float.
Choice = Mapping[str, str]


class Sensitivity:
    """Measures one model with any choice of its layers quantized by any of some policies.

    Effects are kept in a journal below ``folder``. Static scales are those of the model with the
    whole policy applied, whatever part of it is measured. Raises ``SelectionError`` for policies that
    cannot be mixed: they fold batch norms or not, and have static scales of activations or not,
    all alike; ``ConversionError``, with the name of the model, for whatever a plugin raises.
    """

    def __init__(
        self, engine: Engine, model: str, policies: Sequence[Policy], folder: Path
    ) -> None:
        self.engine, self.model = engine, model
        self.halving = Halving(engine.device)
        with naming(model):
            self.subject = engine.subjects.get(model)
        require_alike(policies)
        self.candidates: dict[str, Candidate] = {}
        for policy in policies:
            self.add(policy)
        self.folds = policies[0].fold_batch_norm
        quantized = {name for candidate in self.candidates.values() for name in candidate.sites}
        #: Sites that some candidate quantizes, in order of execution.
        self.sites = [s for s in self.subject.survey.sites if s.name in quantized]
        #: Elements of the quantized weights of each of them.
        self.elements = {
            s.name: max(self.weights(s.name, c).elements for c in self.candidates)
            for s in self.sites
        }
        settings = engine.settings
        depends_on = {
            "model": model,
            "fingerprint": self.subject.fingerprint,
            "dataset": self.subject.dataset,
            "preprocessing": self.subject.source.inputs.preprocessing,
            "images": len(self.subject.source),
            "batch": settings.eval_batch,
            "seed": settings.seed,
        }
        self.journal = EffectJournal(folder, depends_on)

    def add(self, policy: Policy) -> None:
        """Take ``policy`` in; raises ``SelectionError`` where another one has its name."""
        known = self.candidates.get(policy.name)
        if known is None:
            with naming(self.model):
                self.candidates[policy.name] = self._candidate(policy)
        elif known.policy.digest != policy.digest:
            raise SelectionError(
                f"Policies that are compared have a name each; two are called {policy.name!r}. Rename "
                "one."
            )

    def whole(self, policy: str) -> Choice:
        """All sites that ``policy`` quantizes."""
        return dict.fromkeys(self.candidates[policy].sites, policy)

    def with_site(self, site: str, policy: str, rest: Choice | None = None) -> Choice:
        """``site`` by ``policy``, the others as in ``rest``, by default float."""
        choice = {name: chosen for name, chosen in (rest or {}).items() if name != site}
        return {**choice, site: policy} if site in self.candidates[policy].sites else choice

    def left_out(self, site: str, policy: str) -> Choice:
        """All sites of ``policy`` but ``site``."""
        return {name: policy for name in self.candidates[policy].sites if name != site}

    def weights(self, site: str, policy: str) -> BitSum:
        """Elements and bits of the weights of ``site`` that ``policy`` quantizes."""
        return self.candidates[policy].weights.get(site, BitSum())

    def option_bits(self, site: str, policy: str) -> float:
        """Bits that the weights of ``site`` take by ``policy``, 32 each where it leaves them float."""
        held = self.weights(site, policy)
        return held.bits + (self.elements[site] - held.elements) * FLOAT_BITS

    def mean_bits(self, choice: Choice) -> float | None:
        """Mean bits of a weight of ``sites``, scales included; None where they have no weights."""
        total = sum(self.elements.values())
        bits = sum(
            self.option_bits(name, choice[name]) if name in choice else FLOAT_BITS * elements
            for name, elements in self.elements.items()
        )
        return bits / total if total else None

    def effect(self, choice: Choice) -> Effect:
        """What ``choice`` does; measured if the journal does not know."""
        label = ", ".join(sorted(set(choice.values()))) or "float"
        label = (
            f"{len(choice)} layers: {label}"
            if len(choice) != 1
            else f"{next(iter(choice))}: {label}"
        )
        return self.journal.get(self._key(choice), label, lambda: self._measure(choice))

    def measure(self, choices: Iterable[Choice], progress: Callable[[int, int], None]) -> None:
        """Measure what the journal does not know yet; ``progress`` is told how many are done, of all."""
        wanted = list({self._key(choice): choice for choice in choices}.values())
        for done, choice in enumerate(wanted):
            progress(done, len(wanted))
            self.effect(choice)
        progress(len(wanted), len(wanted))

    def layers(self, policy: str) -> list[LayerSensitivity]:
        """Every site that ``policy`` quantizes, the one that does most harm by itself first."""
        candidate, whole = self.candidates[policy], self.effect(self.whole(policy))
        original = self.effect({})
        found = []
        for name in candidate.sites:
            site, weights = candidate.assignments[name].site, candidate.weights[name]
            only = self.effect(self.with_site(name, policy))
            without = self.effect(self.left_out(name, policy))
            found.append(
                LayerSensitivity(
                    policy,
                    name,
                    site.type,
                    site.multiply_adds,
                    weights.elements,
                    weights.mean,
                    only.kl,
                    only.top1,
                    _less(original.top1, only.top1),
                    without.kl,
                    without.top1,
                    _less(whole.kl, without.kl),
                    self.model,
                    self.subject.dataset,
                    only.images,
                    self.engine.settings.seed,
                    min(only.batch, without.batch),
                    candidate.policy.digest,
                )
            )
        return sorted(found, key=lambda layer: -(layer.kl_only or 0.0))

    def layer_choices(self, policy: str) -> list[Choice]:
        """Everything that ``layers`` needs."""
        sites = self.candidates[policy].sites
        alone = [self.with_site(name, policy) for name in sites]
        return [{}, self.whole(policy), *alone, *(self.left_out(name, policy) for name in sites)]

    def key(self, policies: Iterable[str], *choices: object) -> str:
        """The first digits of a digest of all settings, of these policies and of ``choices``."""
        digests = [self.candidates[name].policy.digest for name in policies]
        facts = json.dumps([self.journal.digest, digests, *choices])
        return hashlib.sha256(facts.encode()).hexdigest()[:8]

    def _candidate(self, policy: Policy) -> Candidate:
        subject, engine = self.subject, self.engine
        seed = engine.settings.seed
        assignments = assign(policy, subject.survey, engine.manager, seed=seed)
        model = self._converted(assignments, policy.fold_batch_norm)
        if policy.static:
            wanted = policy.calibration
            dataset = wanted.dataset or subject.dataset
            source = engine.subjects.calibration(self.model, dataset, wanted.images, wanted.seed)

            def observe(size: int) -> int:
                batches = (batch.images.to(engine.device) for batch in source.batches(size))
                return calibrate(model.layers, model, batches)

            self.halving.run(wanted.batch, observe, f"Calibration of {self.model}")
        return Candidate(policy, assignments, model)

    def _converted(self, assignments: Sequence[Assignment], folds: bool) -> ConvertedModel:
        original = self.subject.model.module
        model = convert(original, self.subject.survey, assignments, fold_batch_norm=folds)
        return model.to(self.engine.device).eval()

    @torch.no_grad()
    def _measure(self, choice: Choice) -> Effect:
        subject, batch = self.subject, self.engine.settings.eval_batch
        with naming(self.model):
            pair = Pair(
                subject.model.module, self._chosen(choice), subject.survey, self.engine.device
            )
            drift, accuracy = LogitDrift(), AccuracySums()
            for images in subject.source.batches(batch):
                for more_drift, more_accuracy in self._sums(pair, images):
                    drift += more_drift
                    accuracy += more_accuracy
        size = self.halving.size(batch)
        return Effect(drift.kl, accuracy.percent(accuracy.top1), accuracy.images, size)

    def _chosen(self, choice: Choice) -> ConvertedModel:
        """The model with ``choice`` quantized, with static scales of the whole policies."""
        chosen = [
            self.candidates[choice[site.name]].assignments[site.name]
            if site.name in choice
            else Assignment(site, {}, "left float while others are measured")
            for site in self.subject.survey.sites
        ]
        model = self._converted(chosen, self.folds)
        for name, layer in model.layers.items():
            layer.static_scales = self.candidates[choice[name]].scales.get(name, {})
        return model

    def _sums(self, pair: Pair, batch: Batch) -> Iterator[tuple[LogitDrift, AccuracySums]]:
        """Sums of a batch, in as many parts as memory asks for."""

        def measure(part: slice) -> tuple[LogitDrift, AccuracySums]:
            images = batch.images[part]
            labels = None if batch.labels is None else batch.labels[part]
            reference = self.subject.floats.logits(images, pair.float_logits)
            _require_finite(reference, self.model)
            logits = pair.converted_logits(images)
            if labels is not None:
                require_labels(labels, logits.shape[1], self.subject.dataset)
            return LogitDrift.of(reference, logits, labels), AccuracySums.of(logits, labels)

        wanted = self.engine.settings.eval_batch
        return self.halving.over(len(batch.images), wanted, measure, f"{self.model}, measured,")

    def _key(self, choice: Choice) -> str:
        digests = {name: self.candidates[name].policy.digest for name in set(choice.values())}
        named = sorted((site, digests[policy]) for site, policy in choice.items())
        return hashlib.sha256(json.dumps([self.folds, named]).encode()).hexdigest()[:16]


def _require_finite(logits: Tensor, model: str) -> None:
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise ModelError(
            f"A float model gives finite logits; those of {model} are NaN or Inf for {bad} of "
            f"{len(logits)} images, so that there is nothing to compare with. Check its weights and its "
            "inputs."
        )


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
