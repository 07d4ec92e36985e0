"""Candidate: a policy laid over a model, to be mixed with others, and what may go wrong with that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import ValidationError

from qbench_suite.convert.assign import Assignment
from qbench_suite.convert.policy import ACTIVATIONS, Policy, policy_named
from qbench_suite.convert.resolve import check_policy
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.engine.effective_bits import weight_bits_of
from qbench_suite.engine.halving import is_out_of_memory, out_of_memory
from qbench_suite.errors import ConversionError, ModelError, QBenchError, SelectionError
from qbench_suite.manager import Manager
from qbench_suite.scaling import Scales


class Candidate:
    """A policy laid over the model: what it gives each site, and what its weights take."""

    def __init__(
        self, policy: Policy, assignments: Sequence[Assignment], model: ConvertedModel
    ) -> None:
        self.policy = policy
        self.assignments = {a.site.name: a for a in assignments}
        #: Sites that it quantizes, in order of execution.
        self.sites = tuple(a.site.name for a in model.assignments if a.quantizers)
        #: Bits of the weights of each of them.
        self.weights = {name: weight_bits_of(model.layers[name]) for name in self.sites}
        #: Static scales of each of them, by tensor.
        self.scales: dict[str, dict[str, Scales]] = {
            name: layer.static_scales for name, layer in model.layers.items()
        }


def candidate_policy(name: str, manager: Manager) -> Policy:
    """The policy of that name, in that file, or of a format in a mode, as ``fp8_e4m3-mx32``.

    Raises ``PolicyError`` or ``SelectionError`` for one that is none of these.
    """
    name = name.strip()
    format, dash, mode = name.partition("-")
    if name in manager.policies or not (dash and format in manager.formats):
        policy = policy_named(name, manager)
    else:
        try:
            policy = Policy(name=name, format=format, mode=mode)
        except ValidationError as error:
            raise SelectionError(
                f"A candidate is a policy, or a format in a mode as in fp8_e4m3-mx32; {name!r}: "
                f"{error.errors()[0]['msg']}. Write the mode whole, as in {format}-chunk32."
            ) from None
    check_policy(policy, manager)
    if policy.rounds:
        raise SelectionError(
            "Policies that are mixed layer by layer round to nearest, as a weight_rounding that learns "
            f"suits the layers before it alone; {policy.name} names one. Choose another policy, and "
            "write weight_rounding into the one that comes of it."
        )
    return policy


def require_alike(policies: Sequence[Policy]) -> None:
    """Raise ``SelectionError`` where policies cannot be laid over parts of one model each."""
    reads = [
        policy
        for policy in policies
        if any(variant[role].quantized for variant in policy.variants for role in ACTIVATIONS)
    ]
    for what, values in (
        ("fold_batch_norm", {policy.name: policy.fold_batch_norm for policy in policies}),
        ("scales", {policy.name: policy.scales for policy in reads}),
    ):
        if len(set(values.values())) > 1:
            said = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise SelectionError(
                f"Policies that are mixed in one model have the same {what}; got {said}. Choose "
                "others, or copy one and change it."
            )


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Within it, whatever a plugin raises becomes an error that names ``model``."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(model, error) from error
        named = re.search(rf"(?<!\w){re.escape(model)}(?!\w)", str(error))
        if isinstance(error, ConversionError | ModelError) and not named:
            raise type(error)(f"{error} The model is {model}.") from error
        if isinstance(error, QBenchError):
            raise
        raise ConversionError(
            f"A model runs, float and quantized, on images of its input_size; {model} raised "
            f"{type(error).__name__}: {error}. Mend the plugin that provides it, its layers or its "
            "formats; what was measured is kept, and the same command goes on from there."
        ) from error
