"""The row that a case begins as."""

from __future__ import annotations

from typing import Any

from qbench_suite.engine.arithmetic_grid import IntegerCase, LinearCase
from qbench_suite.engine.grid import FormatCase, LayerCase, ModelCase, QuantizerCase, axes_of
from qbench_suite.engine.norm_grid import NormCase
from qbench_suite.engine.settings import Settings
from qbench_suite.manager import Manager
from qbench_suite.results import (
    FormatRow,
    IntegerRow,
    LayerRow,
    LinearRow,
    ModelRow,
    NormRow,
    QuantizerRow,
    Row,
)

#: A case of any table.
Case = LayerCase | FormatCase | QuantizerCase | ModelCase | LinearCase | IntegerCase | NormCase


def new_row(case: Case, manager: Manager, settings: Settings) -> Row:  # noqa: PLR0911 - a case a kind
    """The row of ``case`` before anything is measured: its axes, owners, device and seed."""
    names = case.formats if isinstance(case, ModelCase) else (case.format,)
    owners = dict.fromkeys(str(manager.formats.owner(name)) for name in names)
    common: dict[str, Any] = {
        "case": case.id,
        "format": ";".join(names),
        "format_owner": "; ".join(owners),
        "device": settings.device,
        "seed": settings.seed,
    }
    match case:
        case LayerCase():
            return LayerRow(**common, model=case.model, mode=case.mode, layer=case.layer)
        case FormatCase():
            return FormatRow(**common, distribution=case.distribution)
        case QuantizerCase():
            return QuantizerRow(**common, mode=case.mode)
        case ModelCase():
            return ModelRow(**common, model=case.model, policy=case.policy)
        case LinearCase():
            owner = str(manager.linears.owner(case.entry))
            return LinearRow(
                **common, entry=case.entry, entry_owner=owner, dtype=case.dtype, rows=case.rows
            )
        case IntegerCase():
            return IntegerRow(**common, model=case.model, method=case.method)
        case NormCase():
            owner = str(manager.norm_kernels.owner(case.kernel))
            axes: dict[str, Any] = {name: getattr(case, name) for name in axes_of(case)}
            return NormRow(**common, **axes, kernel_owner=owner)
