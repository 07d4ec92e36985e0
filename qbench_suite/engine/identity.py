"""Identity of an evaluation: what its sums depend on, so that none goes on from another's."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qbench_suite.compliance import read_rules
from qbench_suite.convert.assign import Assignment
from qbench_suite.engine.fingerprint import content
from qbench_suite.layers import LinearMap

if TYPE_CHECKING:
    from qbench_suite.convert.policy import Policy
    from qbench_suite.convert.swap import ConvertedModel
    from qbench_suite.engine.batches import ImageSource
    from qbench_suite.engine.settings import Settings
    from qbench_suite.engine.subject import Subject


def identity(
    settings: Settings, subject: Subject, policy: Policy, converted: ConvertedModel
) -> dict[str, str]:
    """Digests of what the sums depend on beyond the images themselves, each by what it is of."""
    from qbench_suite import __version__

    assignments, source = converted.assignments, subject.source
    layers = converted.layers.values()
    kernels = {type(x.kernel) for x in layers if isinstance(x, LinearMap)}
    calibration = policy.calibration.model_dump(mode="json") if policy.calibrated else None
    facts: dict[str, Any] = {
        "versions": [__version__, torch.__version__],
        "model": subject.fingerprint,
        "dataset": [subject.dataset, source.inputs.preprocessing],
        "chosen images": [len(source.inputs), source.indices],
        "policy": [policy.digest, _named_quantizers(assignments)],
        "calibration": [calibration, list(_scales(converted)), *_rounded(converted)],
        "plugins": dict(_sources(assignments, kernels)),
        "compliance rules": read_rules(settings.compliance).model_dump(mode="json"),
        "settings": [settings.seed, settings.eval_batch, settings.layerwise, settings.device],
    }
    return {
        name: hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).hexdigest()
        for name, fact in facts.items()
    }


def rounding_facts(
    settings: Settings,
    subject: Subject,
    policy: Policy,
    converted: ConvertedModel,
    calibration: ImageSource,
) -> dict[str, Any]:
    """What weights depend on that a rule rounds by the images of ``calibration``, as plain JSON."""
    from qbench_suite import __version__

    assignments, inputs = converted.assignments, calibration.inputs
    return {
        "versions": [__version__, torch.__version__],
        "model": subject.fingerprint,
        "policy": [policy.digest, _named_quantizers(assignments)],
        "plugins": dict(_sources(assignments)),
        "images": [inputs.dataset, inputs.split, inputs.preprocessing, calibration.indices],
        "content": calibration.content(len(calibration)),
        "settings": [settings.seed, settings.device],
    }


def _rounded(converted: ConvertedModel) -> Iterator[list[str]]:
    """The weights that a rule rounded, by content."""
    for assignment in converted.assignments:
        layer = converted.layers.get(assignment.site.name)
        if assignment.rounding is not None and isinstance(layer, LinearMap):
            yield [assignment.site.name, hashlib.sha256(content(layer.weight)).hexdigest()]


def _named_quantizers(assignments: tuple[Assignment, ...]) -> list[Any]:
    return [[a.site.name, _quantizers(a)] for a in assignments]


def _scales(converted: ConvertedModel) -> Iterator[list[str]]:
    """Static scales of each layer: other training images give others."""
    for name, layer in converted.layers.items():
        for tensor, scales in sorted(layer.static_scales.items()):
            held = [
                hashlib.sha256(content(part)).hexdigest() for part in scales if part is not None
            ]
            yield [name, tensor, *held]


def _quantizers(assignment: Assignment) -> dict[str, str]:
    found = {str(role): repr(quantizer) for role, quantizer in assignment.quantizers.items()}
    if assignment.rounding is not None:
        found["rounding"] = repr(assignment.rounding)
    return found


def _sources(
    assignments: tuple[Assignment, ...], others: Collection[type[Any]] = ()
) -> Iterator[tuple[str, str]]:
    """File and digest of each class that quantizes, and of ``others``: a mended plugin begins anew."""
    kinds = set(others)
    for assignment in assignments:
        if assignment.quantizers and assignment.site.twin is not None:
            kinds.add(assignment.site.twin)
        for quantizer in assignment.quantizers.values():
            parts = (quantizer.format, quantizer.mode.rule, quantizer.range_rule)
            kinds |= {type(part) for part in (*parts, assignment.rounding)}
    for kind in kinds - {type(None)}:
        try:
            file = Path(inspect.getfile(kind))
            yield str(file), hashlib.sha256(file.read_bytes()).hexdigest()
        except (OSError, TypeError):  # made at run time, without a file
            continue
