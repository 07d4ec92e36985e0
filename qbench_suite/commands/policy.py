"""``qbench policy``: which policies there are, whether one is sound, what it does to a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench_suite.convert.assign import Assignment
    from qbench_suite.convert.policy import Policy
    from qbench_suite.convert.sites import Survey
    from qbench_suite.manager import Manager

Row = tuple[str, ...]
#: Columns that are left out where they would be empty.
_OPTIONAL = ("act", "output", "statistics", "rounding", "kernel")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``policy show``, ``policy list`` and ``policy check``."""
    policy = commands.add_parser("policy", help="what a policy says, and what it does to a model")
    actions = policy.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", help="what it gives each layer of a model, and why some stay float"
    )
    show.add_argument("policy", metavar="POLICY", help="a name, or the path of a YAML file")
    show.add_argument("--model", metavar="MODEL", help="without one: what the policy itself says")
    show.set_defaults(run=_show)
    listing = actions.add_parser("list", help="policies that plugins provide")
    listing.set_defaults(run=_list)
    check = actions.add_parser("check", help="whether a policy can be read and agrees with itself")
    check.add_argument("policy", metavar="POLICY", help="the path of a YAML file, or a name")
    check.add_argument("--model", metavar="MODEL", help="whether it fits this model too")
    check.set_defaults(run=_check)
    for command in (show, listing, check):
        add_plugin_options(command)


def add_plugin_options(command: argparse.ArgumentParser) -> None:
    """``--plugin FILE`` and ``--disable-plugin NAME``, as every command that asks plugins has them."""
    for name, text, metavar in (
        ("plugin", "load this plugin too", "FILE"),
        ("disable-plugin", "do not load it", "NAME"),
    ):
        kind = Path if name == "plugin" else str
        names = (f"--{name}", f"--qbench-{name}")
        command.add_argument(
            *names, action="append", default=[], type=kind, metavar=metavar, help=text
        )


def _manager(options: argparse.Namespace) -> Manager:
    from qbench_suite.manager import default_manager

    return default_manager(disabled=options.disable_plugin, files=options.plugin)


def _list(options: argparse.Namespace) -> int:
    from qbench_suite.listing import rows

    filters = argparse.Namespace(models=None, formats=None, modes=None, layers=None, policies=None)
    print_table(rows(_manager(options), "policies", filters))
    return 0


def _check(options: argparse.Namespace) -> int:
    from qbench_suite.convert.policy import policy_named
    from qbench_suite.convert.resolve import check_policy

    manager = _manager(options)
    policy = policy_named(options.policy, manager)
    check_policy(policy, manager)
    if options.model:
        _assigned(policy, options.model, manager)
    print(f"{options.policy}: sound" + (f", and fits {options.model}" if options.model else ""))
    return 0


def _show(options: argparse.Namespace) -> int:
    from qbench_suite.convert.policy import policy_named
    from qbench_suite.convert.resolve import check_policy

    manager = _manager(options)
    policy = policy_named(options.policy, manager)
    check_policy(policy, manager)
    print(f"{policy.name} ({policy.digest}): {policy.description or 'no description'}")
    if options.model is None:
        print_table(defaults(policy))
        return 0
    survey, assignments, bits, kernels = _assigned(policy, options.model, manager)
    print_table(site_rows(survey, assignments, kernels))
    print(totals(survey, assignments, bits))
    return 0


def _assigned(
    policy: Policy, model: str, manager: Manager
) -> tuple[Survey, tuple[Assignment, ...], float | None, dict[str, str]]:
    """The sites of a model, what ``policy`` gives each, and mean bits of a parameter then.

    Last, for each site that is given a kernel, why it is emulated all the same.
    """
    import torch

    from qbench_suite.convert.assign import assign
    from qbench_suite.convert.kernels import attach_kernels
    from qbench_suite.convert.survey import survey
    from qbench_suite.convert.swap import convert
    from qbench_suite.engine.effective_bits import parameter_bits
    from qbench_suite.engine.pool import ModelPool
    from qbench_suite.scaling.compiling import eager

    device = torch.device("cpu")
    loaded = ModelPool(manager, 0, device).get(model)
    images = torch.randn(1, *loaded.entry.input_size, generator=torch.Generator().manual_seed(0))
    found = survey(loaded.module, images, manager)
    assignments = assign(policy, found, manager)
    with eager():  # a compiler takes longer than the weights do
        folds = policy.fold_batch_norm
        converted = convert(loaded.module, found, assignments, fold_batch_norm=folds)
    bits = parameter_bits(loaded.module, converted.layers.values()).mean
    kernels = attach_kernels(converted, policy, device)
    return found, converted.assignments, bits, kernels


def defaults(policy: Policy) -> list[Row]:
    """What the policy says where no entry does: a table with a heading, then its entries."""
    rows: list[Row] = [("role", "format", "mode", "range")]
    for role, settings in policy.variants[0].items():
        row = (settings.format.value, settings.mode.value, settings.range.value)
        rows.append((str(role), *(row if settings.quantized else ("float", "", ""))))
    from qbench_suite.layers import Role

    weight = policy.variants[0][Role.WEIGHT]
    rows.append(("weight rounding", weight.rounding.value, "", ""))
    if weight.computed:
        rows.append(("kernel", weight.kernel.value, "", ""))
    rows.append(("scope", policy.scope, "", ""))
    rows.append(("scales", "static" if policy.static else "dynamic", "", ""))
    for (key, overrides), variant in zip(
        list(policy.entries())[1:], policy.variants[1:], strict=True
    ):
        if len(key) == 2 or overrides.model_fields_set:
            quantized = [
                f"{r}={s.format.value}-{s.mode.value}"
                + (f"/{s.rounding.value}" if s.rounded else "")
                + (f" kernel={s.kernel.value}" if s.computed else "")
                for r, s in variant.items()
                if s.quantized
            ]
            rows.append((": ".join(map(str, key)), " ".join(quantized) or "float", "", ""))
    rows += [("exclude", pattern, "", "") for pattern in policy.exclude]
    return rows


def site_rows(
    survey: Survey, assignments: Iterable[Assignment], kernels: Mapping[str, str]
) -> list[Row]:
    """A row a site: what each role is quantized to, or why the site stays float; with a heading.

    ``kernels``: why each site that is given a kernel is emulated, empty where it is not.
    """
    from qbench_suite.layers import Role

    heading = (
        "layer",
        "type",
        "multiply-adds %",
        *(str(role) for role in Role),
        "rounding",
        "kernel",
        "why float",
    )
    rows = [heading]
    for a in assignments:
        share = 100 * a.site.multiply_adds / survey.multiply_adds if survey.multiply_adds else 0.0
        roles = [str(a.quantizers.get(role, "")) for role in Role]
        rounding = a.rounding.name if a.rounding else a.unrounded
        kernel = ""
        if a.kernel and a.site.name in kernels:
            reason = kernels[a.site.name]
            kernel = f"emulated: {reason}" if reason else a.kernel.name
        adds = f"{share:.2f}" if a.site.adds else ""
        rows.append((a.site.name, a.site.type, adds, *roles, rounding, kernel, a.reason))
    kept = [
        column
        for column in zip(*rows, strict=True)
        if column[0] not in _OPTIONAL or any(column[1:])
    ]
    return list(zip(*kept, strict=True))


def totals(survey: Survey, assignments: Sequence[Assignment], weight_bits: float | None) -> str:
    """One line: how many sites and multiply-adds the policy reaches, and what a parameter takes."""
    reached = [a.site for a in assignments if a.quantizers]
    adds = sum(site.multiply_adds for site in reached)
    share = 100 * adds / survey.multiply_adds if survey.multiply_adds else 0.0
    bits = "" if weight_bits is None else f"; {weight_bits:.2f} bits a parameter, scales included"
    return (
        f"{len(reached)} of {len(assignments)} layers quantized, with {share:.1f} % of "
        f"{survey.multiply_adds:,} multiply-adds{bits}"
    )


def print_table(rows: Sequence[Row]) -> None:
    """Rows with a heading: as a table on a terminal, else as aligned text."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*rows[0], box=None, pad_edge=False, header_style="bold")
        for row in rows[1:]:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
