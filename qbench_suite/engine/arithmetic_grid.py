"""The grid of what computes in low precision instead of emulating it: linear layers, integer models."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from qbench_suite.engine.grid import GridCase, Selection, check_unique
from qbench_suite.errors import SelectionError
from qbench_suite.manager import Manager

#: What linear cases are measured on unless options say otherwise: few rows are a token at a time, many
#: a prompt or a batch of images.
DEFAULT_SIZES, DEFAULT_ROWS = "4096x4096", "1,4,16,64,256,2048"


@dataclass(frozen=True, order=True)
class LinearCase(GridCase):
    """A linear layer on inputs of a dtype: ``entry-dtype-OUTxIN-rows``."""

    table = "linears"
    entry: str
    dtype: str
    #: Lengths of the weight: output features x input features.
    size: str
    rows: int
    format: str = field(default="", compare=False)

    @property
    def lengths(self) -> tuple[int, int]:
        """Output and input features."""
        out_features, in_features = map(int, self.size.split("x"))
        return out_features, in_features


@dataclass(frozen=True, order=True)
class IntegerCase(GridCase):
    """A model run in integers by a method: ``model-method``."""

    table = "integers"
    model: str
    method: str
    format: str = field(default="", compare=False)


def linear_cases(selection: Selection, manager: Manager) -> list[LinearCase]:
    """Every linear case selected, sorted; raises ``SelectionError`` for lengths that are none."""
    known = manager.linears
    names = [e.name for e in known if e.default]
    if selection.linears is not None:
        names = known.select(selection.linears)
    sizes = _listed(
        "--qbench-linear-sizes", selection.linear_sizes, DEFAULT_SIZES, r"[1-9]\d*x[1-9]\d*"
    )
    rows = _listed("--qbench-linear-rows", selection.linear_rows, DEFAULT_ROWS, r"[1-9]\d*")
    cases = [
        LinearCase(entry.name, dtype, size, int(number), entry.format)
        for entry in map(known.get, names)
        if _of_formats(selection, manager, entry.format)
        for dtype in entry.dtypes
        for size in sizes
        for number in rows
    ]
    check_unique(cases)
    return sorted(cases)


def integer_cases(selection: Selection, manager: Manager) -> list[IntegerCase]:
    """Every integer case selected, sorted; of no models named, each method's default ones."""
    known = manager.integer_methods
    names = [m.name for m in known if m.default]
    if selection.integers is not None:
        names = known.select(selection.integers)
    cases = [
        IntegerCase(model, method.name, method.format)
        for method in map(known.get, names)
        if _of_formats(selection, manager, method.format)
        for model in (
            method.default_models if selection.models is None else selection.model_names(manager)
        )
    ]
    check_unique(cases)
    return sorted(cases)


def _of_formats(selection: Selection, manager: Manager, format: str) -> bool:
    return selection.formats is None or format in selection.format_names(manager)


def _listed(option: str, text: str | None, default: str, pattern: str) -> list[str]:
    parts = [part.strip() for part in (default if text is None else text).split(",")]
    for part in parts:
        if not re.fullmatch(pattern, part):
            raise SelectionError(
                f"{option} takes a comma list like {default}, of numbers above 0; got {part!r}. "
                "Correct it."
            )
    return list(dict.fromkeys(parts))
