"""Listings: what the registries and the grid hold, as rows of text with a heading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from qbench_suite.manager import Manager

if TYPE_CHECKING:
    from qbench_suite.engine import Engine, Selection
    from qbench_suite.formats import Format

Rows = list[tuple[str, ...]]


class Filters(Protocol):
    """Comma lists of globs by axis; None for the default."""

    models: str | None
    formats: str | None
    modes: str | None
    layers: str | None
    policies: str | None


def rows(manager: Manager, kind: str, filters: Filters) -> Rows:
    """The listing of ``kind``; raises ``NameNotFoundError`` for a filter without match."""
    listings: dict[str, Callable[[Manager, Filters], Rows]] = {
        "plugins": _plugins,
        "formats": _formats,
        "modes": _modes,
        "layers": _layers,
        "models": _models,
        "policies": _policies,
        "ranges": _ranges,
        "roundings": _roundings,
        "linears": _linears,
        "integers": _integers,
        "norms": _norms,
        "datasets": _datasets,
        "cases": _cases,
    }
    return listings[kind](manager, filters)


def _plugins(manager: Manager, _: Filters) -> Rows:
    used = [(str(plugin.owner), "in use", ", ".join(plugin.hooks)) for plugin in manager.plugins]
    broken = [(problem.plugin, "broken", problem.reason) for problem in manager.problems]
    return [("plugin", "state", "hooks"), *sorted(used), *sorted(broken)]


def _formats(manager: Manager, filters: Filters) -> Rows:
    names = manager.formats.select(filters.formats or "*")
    heading = (
        "format",
        "bits",
        "values",
        "max",
        "smallest",
        "overflow",
        "rounding",
        "NaN",
        "Inf",
        "owner",
    )
    body = [(*_facts(manager.formats.get(n)), str(manager.formats.owner(n))) for n in names]
    return [heading, *body]


def _facts(format: Format) -> tuple[str, ...]:
    enumerable = format.bits <= 16
    return (
        format.name,
        str(format.bits),
        str(len(format.values)) if enumerable else "",
        f"{format.max:g}",
        f"{format.smallest:g}",
        str(format.overflow),
        str(format.rounding),
        str(format.nan_codes) if enumerable else "",
        str(format.inf_codes) if enumerable else "",
    )


def _modes(manager: Manager, filters: Filters) -> Rows:
    names = manager.modes.select(filters.modes or "*")
    body = [
        (name, "yes" if mode.default else "", mode.description, str(manager.modes.owner(name)))
        for name in names
        for mode in [manager.modes.get(name)]
    ]
    body += [(f, "", "any size", str(manager.modes.owner(f))) for f in manager.modes.families()]
    return [("mode", "default", "meaning", "owner"), *body]


def _models(manager: Manager, filters: Filters) -> Rows:
    names = manager.models.select(filters.models or "*")
    body = [
        (name, "yes" if entry.default else "", entry.dataset, entry.description)
        for name in names
        for entry in [manager.models.get(name)]
    ]
    body += [(f, "", "", str(manager.models.owner(f))) for f in manager.models.families()]
    return [("model", "default", "dataset", "description"), *body]


def _policies(manager: Manager, filters: Filters) -> Rows:
    chosen, known = filters.policies, manager.policies
    names = known.names() if chosen is None else known.select(chosen)
    body = [
        (name, "yes" if entry.default else "", entry.description, str(manager.policies.owner(name)))
        for name in names
        for entry in [manager.policies.get(name)]
    ]
    body += [
        (f, "", "any file", str(manager.policies.owner(f))) for f in manager.policies.families()
    ]
    return [("policy", "default", "description", "owner"), *body]


def _ranges(manager: Manager, _: Filters) -> Rows:
    rules = manager.range_rules
    body = [(r.name, r.description, str(rules.owner(r.name))) for r in rules]
    body += [(f, "any size", str(rules.owner(f))) for f in rules.families()]
    return [("range", "meaning", "owner"), *body]


def _roundings(manager: Manager, _: Filters) -> Rows:
    rules = manager.rounding_rules
    body = [(r.name, r.description, str(rules.owner(r.name))) for r in rules]
    return [("rounding", "meaning", "owner"), *body]


def _linears(manager: Manager, _: Filters) -> Rows:
    import torch

    known, device = manager.linears, torch.device("cpu")
    body = [
        (
            e.name,
            "yes" if e.default else "",
            e.format,
            ", ".join(e.dtypes),
            e.description,
            e.unavailable(device),
            str(known.owner(e.name)),
        )
        for e in known
    ]
    heading = ("linear", "default", "format", "dtypes", "description", "missing", "owner")
    return [heading, *body]


def _integers(manager: Manager, _: Filters) -> Rows:
    known = manager.integer_methods
    body = [
        (
            m.name,
            "yes" if m.default else "",
            ", ".join(m.default_models),
            m.description,
            str(known.owner(m.name)),
        )
        for m in known
    ]
    return [("integer method", "default", "models", "description", "owner"), *body]


def _norms(manager: Manager, _: Filters) -> Rows:
    import torch

    known, device = manager.norm_kernels, torch.device("cpu")
    body = [
        (
            k.name,
            "yes" if k.default else "",
            ", ".join(k.dtypes),
            k.description or k.operation.description,
            k.unavailable(device),
            str(known.owner(k.name)),
        )
        for k in known
    ]
    return [("norm kernel", "default", "dtypes", "description", "missing", "owner"), *body]


def _datasets(manager: Manager, _: Filters) -> Rows:
    body = [(e.name, str(e.num_classes or ""), e.description) for e in manager.datasets]
    body += [(f, "", str(manager.datasets.owner(f))) for f in manager.datasets.families()]
    return [("dataset", "classes", "description"), *body]


def _layers(manager: Manager, filters: Filters) -> Rows:
    """Layer classes; with a filter of models, the modules of those and what replaces them."""
    if filters.models is None:
        body = [
            (
                e.name,
                ", ".join(e.layer.roles),
                ", ".join(e.layer.float_types),
                str(manager.layers.owner(e.name)),
            )
            for e in manager.layers
        ]
        return [("layer", "roles", "replaces", "owner"), *body]
    engine = _engine(manager)
    body = []
    for name in manager.models.select(filters.models):
        model = engine.pool.get(name)
        body += [
            (name, layer, type(r.module).__name__, r.layer.__name__)
            for layer, r in model.layers.items()
        ]
        body += [
            (name, module, f.module_type, f"float: {f.reason}")
            for module, f in model.float_modules.items()
        ]
    return [("model", "layer", "type", "quantized as"), *body]


def _cases(manager: Manager, filters: Filters) -> Rows:
    engine, chosen = _engine(manager), _selection(filters)
    cases = [
        *engine.format_cases(chosen),
        *engine.layer_cases(chosen),
        *engine.quantizer_cases(chosen),
        *(engine.linear_cases(chosen) if chosen.concerns("linears") else ()),
        *(engine.integer_cases(chosen) if chosen.concerns("integers") else ()),
        *(engine.norm_cases(chosen) if chosen.concerns("norms") else ()),
    ]
    return [("table", "case"), *((case.table, case.id) for case in cases)]


def _engine(manager: Manager) -> Engine:
    from qbench_suite.engine import Engine

    return Engine(manager)


def _selection(filters: Filters) -> Selection:
    from qbench_suite.engine import Selection

    return Selection(filters.models, filters.formats, filters.modes, filters.layers)
