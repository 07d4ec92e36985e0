"""The grid: which cases there are, as plain strings, before anything is measured."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import ClassVar, cast

from qbench_suite.engine.pool import ModelPool
from qbench_suite.errors import NameNotFoundError, SelectionError
from qbench_suite.manager import Manager
from qbench_suite.registry import near_misses

#: Distributions that format cases draw samples from.
DISTRIBUTIONS = ("normal", "uniform", "laplace", "lognormal", "outliers")


#: Tables of which options about others may leave no case: formats, for one, that no policy uses.
_OF_THEIR_OWN = frozenset({"models", "linears", "integers", "norms"})
#: Tables whose cases are of no model.
_OF_NO_MODEL = frozenset({"linears", "norms"})


def case_id(*parts: str) -> str:
    """The parts joined by ``-``, with every other character than ``A-Z a-z 0-9 _ . +`` as ``.``."""
    return "-".join(re.sub(r"[^A-Za-z0-9_.+]", ".", part) for part in parts)


def axes_of(case: GridCase) -> list[str]:
    """Names of the fields that ``case`` is told by, in order."""
    return [f.name for f in fields(cast("LayerCase", case)) if f.compare]


class GridCase:
    """One point of a grid, a dataclass; its id is the fields it is compared by, joined by ``-``."""

    #: Table that its row belongs to.
    table: ClassVar[str]
    format: str

    @property
    def marks(self) -> tuple[str, ...]:
        """Markers of its test, so that ``-m`` selects by format exactly."""
        return (self.format,)

    @functools.cached_property
    def id(self) -> str:
        """What stands between the brackets of the pytest id; independent of other plugins."""
        return case_id(*(str(getattr(self, name)) for name in axes_of(self)))

    @property
    def key(self) -> str:
        """``table/id``: the case in a journal."""
        return f"{self.table}/{self.id}"


@dataclass(frozen=True, order=True)
class LayerCase(GridCase):
    """A layer of a model, quantized to a format in a mode: ``model-format-mode-layer``."""

    table = "layers"
    model: str
    format: str
    mode: str
    layer: str


@dataclass(frozen=True, order=True)
class FormatCase(GridCase):
    """A format on samples of a distribution: ``format-distribution``."""

    table = "formats"
    format: str
    distribution: str


@dataclass(frozen=True, order=True)
class QuantizerCase(GridCase):
    """The throughput of a format in a mode: ``format-mode``."""

    table = "quantizers"
    format: str
    mode: str


@dataclass(frozen=True, order=True)
class ModelCase(GridCase):
    """A whole model converted by a policy: ``model-policy``."""

    table = "models"
    model: str
    policy: str
    #: Formats that the policy uses.
    formats: tuple[str, ...] = field(default=(), compare=False)

    @functools.cached_property
    def id(self) -> str:
        """``model-policy``, a policy file by its name without folder and ending."""
        return case_id(self.model, re.sub(r"(.*/)?([^/]+)\.ya?ml$", r"\2", self.policy))

    @property
    def marks(self) -> tuple[str, ...]:
        return self.formats


@dataclass(frozen=True)
class Selection:
    """Which entries the grid holds: comma lists of glob patterns; None for the default entries."""

    models: str | None = None
    formats: str | None = None
    modes: str | None = None
    layers: str | None = None
    policies: str | None = None
    linears: str | None = None
    #: Comma list of ``OUTxIN``.
    linear_sizes: str | None = None
    #: Comma list of numbers.
    linear_rows: str | None = None
    integers: str | None = None
    #: Patterns of ``operation:provider``.
    norms: str | None = None
    #: Comma list of lengths joined by ``x``.
    norm_shapes: str | None = None
    #: Comma list of dtypes.
    norm_dtypes: str | None = None

    def concerns(self, table: str) -> bool:
        """Whether the grid holds cases of ``table`` at all.

        What names layers or modes, policies, linear layers, integer methods or norms is about cases of
        these alone; formats beside policies are those of layers too. Linear layers and norms are of no
        model.
        """
        asked = self._asked
        if any(asked.values()):
            return asked.get(table, asked["layers"])
        return table not in _OF_NO_MODEL or self.models is None

    def asks_for(self, table: str) -> bool:
        """Whether options name what only cases of ``table`` have, so that none is a mistake."""
        return self._asked[table] if table in _OF_THEIR_OWN else self != Selection()

    @property
    def _asked(self) -> dict[str, bool]:
        """Tables, that of layers for every other, and whether what only they have is named."""
        policies = self.policies is not None
        linears = (self.linears, self.linear_sizes, self.linear_rows)
        norms = (self.norms, self.norm_shapes, self.norm_dtypes)
        return {
            "layers": self.modes is not None
            or self.layers is not None
            or (policies and self.formats is not None),
            "models": policies,
            "linears": any(names is not None for names in linears),
            "integers": self.integers is not None,
            "norms": any(names is not None for names in norms),
        }

    def model_names(self, manager: Manager) -> list[str]:
        """Models selected; raises ``NameNotFoundError`` for a pattern without match."""
        if self.models is not None:
            return manager.models.select(self.models)
        return [entry.name for entry in manager.models if entry.default]

    def format_names(self, manager: Manager) -> list[str]:
        """Formats selected, by default all that are for elements."""
        if self.formats is not None:
            return manager.formats.select(self.formats)
        return [entry.name for entry in manager.formats if not entry.scale_only]

    def mode_names(self, manager: Manager) -> list[str]:
        """Modes selected."""
        if self.modes is not None:
            return manager.modes.select(self.modes)
        return [entry.name for entry in manager.modes if entry.default]

    def policy_names(self, manager: Manager) -> list[str]:
        """Policies selected."""
        if self.policies is not None:
            return manager.policies.select(self.policies)
        return [entry.name for entry in manager.policies if entry.default]

    def fitting(self, manager: Manager) -> list[tuple[str, str]]:
        """(format, mode) pairs selected that fit each other; ``SelectionError`` if none does."""
        formats, modes = self.format_names(manager), self.mode_names(manager)
        misfits = {
            (f, m): manager.modes.get(m).misfit(manager.formats.get(f))
            for f in formats
            for m in modes
        }
        pairs = [pair for pair, reason in misfits.items() if not reason]
        if not pairs:
            reasons = "; ".join(dict.fromkeys(misfits.values())) or "nothing is selected"
            raise SelectionError(
                f"A grid holds formats in modes they fit; of formats {formats} and modes {modes} "
                f"none does: {reasons}. Widen --qbench-formats or --qbench-modes."
            )
        return sorted(pairs)


def layer_cases(selection: Selection, manager: Manager, pool: ModelPool) -> list[LayerCase]:
    """Every layer case selected, sorted; raises ``NameNotFoundError`` for a pattern without match."""
    pairs = selection.fitting(manager)
    patterns = [p.strip() for p in (selection.layers or "*").split(",") if p.strip()]
    cases: list[LayerCase] = []
    unmatched, known = set(patterns), set()
    for model in selection.model_names(manager):
        layers = list(pool.get(model).layers)
        known.update(layers)
        chosen = [n for n in layers if any(fnmatchcase(n, pattern) for pattern in patterns)]
        unmatched -= {p for p in unmatched if any(fnmatchcase(n, p) for n in layers)}
        cases += [LayerCase(model, f, m, layer) for f, m in pairs for layer in chosen]
    if unmatched and known:
        pattern = sorted(unmatched)[0]
        raise NameNotFoundError(
            f"A pattern of --qbench-layers matches a layer of a selected model; {pattern!r} matches "
            f"none. {near_misses(pattern, sorted(known))}"
        )
    check_unique(cases)
    return sorted(cases)


def format_cases(selection: Selection, manager: Manager) -> list[FormatCase]:
    """Every format case selected, sorted."""
    cases = [FormatCase(name, d) for name in selection.format_names(manager) for d in DISTRIBUTIONS]
    check_unique(cases)
    return sorted(cases)


def quantizer_cases(selection: Selection, manager: Manager) -> list[QuantizerCase]:
    """Every quantizer case selected, sorted."""
    cases = [QuantizerCase(format, mode) for format, mode in selection.fitting(manager)]
    check_unique(cases)
    return cases


def model_cases(
    selection: Selection, manager: Manager, formats_of: Callable[[str], tuple[str, ...]]
) -> list[ModelCase]:
    """Every (model, policy) selected, sorted; of formats selected, policies that use one of them."""
    wanted = None if selection.formats is None else set(selection.format_names(manager))
    cases = []
    for policy in selection.policy_names(manager):
        formats = formats_of(policy)
        if wanted is None or wanted & set(formats):
            cases += [ModelCase(m, policy, formats) for m in selection.model_names(manager)]
    check_unique(cases)
    return sorted(cases)


def check_unique(cases: Iterable[GridCase]) -> None:
    """Raise ``SelectionError`` where two cases that differ have one id."""
    seen: dict[str, GridCase] = {}
    for case in cases:
        other = seen.setdefault(case.id, case)
        if other != case:
            raise SelectionError(
                f"A case id tells one case; {case.id} tells {_differences(other, case)} and "
                f"{_differences(case, other)}. Rename one of them, or select one of the two."
            )


def _differences(case: GridCase, other: GridCase) -> str:
    """What of ``case`` is not so of ``other``, in words: ``policy a/mine.yaml``."""
    return ", ".join(
        f"{name} {getattr(case, name)}"
        for name in axes_of(case)
        if getattr(case, name) != getattr(other, name)
    )
