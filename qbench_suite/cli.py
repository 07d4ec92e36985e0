"""The command ``qbench``: what there is, and whether it works."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qbench_suite import commands as subcommands
from qbench_suite.errors import QBenchError

if TYPE_CHECKING:
    from qbench_suite.manager import Manager

_KINDS = (
    "plugins",
    "formats",
    "modes",
    "layers",
    "models",
    "policies",
    "ranges",
    "roundings",
    "linears",
    "integers",
    "norms",
    "datasets",
    "cases",
    "columns",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``qbench``; exit status 0, 1 where something is wrong, 2 for a mistake on the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if not _is_core(words):
        _add_plugin_commands(parser)
    options = parser.parse_args(words)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        status = run(options)
        sys.stdout.flush()
        return status
    except QBenchError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, for instance head, has seen enough
        # The interpreter flushes once more as it ends; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "qbench", description="Benchmark grid of low-precision models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser("list", help="what plugins provide, and the cases of the grid")
    show.add_argument("kind", choices=_KINDS)
    for axis in ("models", "formats", "modes", "layers", "policies"):
        show.add_argument(f"--{axis}", metavar="NAMES", help="comma list of names or globs")
    doctor = commands.add_parser(
        "doctor", help="versions, devices, compiler, plugins and their ills"
    )
    doctor.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of problems")
    for command, run in ((show, _list), (doctor, _doctor)):
        command.add_argument(
            "--plugin",
            "--qbench-plugin",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="load this plugin too",
        )
        command.add_argument(
            "--disable-plugin",
            "--qbench-disable-plugin",
            action="append",
            default=[],
            metavar="NAME",
            help="do not load it",
        )
        command.set_defaults(run=run)
    for module in pkgutil.iter_modules(subcommands.__path__, f"{subcommands.__name__}."):
        importlib.import_module(module.name).add(commands)
    parser.set_defaults(commands=commands)
    return parser


def _is_core(words: list[str]) -> bool:
    own = {module.name for module in pkgutil.iter_modules(subcommands.__path__)}
    return bool(words) and words[0] in {"list", "doctor", *own}


def _add_plugin_commands(parser: argparse.ArgumentParser) -> None:
    """Commands of plugins; those that are not needed to answer are not loaded at all."""
    from qbench_suite.manager import default_manager

    manager = default_manager()
    manager.call("qbench_cli_commands", commands=parser.get_default("commands"))


def _manager(options: argparse.Namespace) -> Manager:
    from qbench_suite.manager import default_manager

    return default_manager(disabled=options.disable_plugin, files=options.plugin)


def _doctor(options: argparse.Namespace) -> int:
    from qbench_suite.doctor import examine

    findings = examine(_manager(options))
    marks = {"ok": " ", "note": "i", "problem": "!"}
    _print_table([(marks[f.grade], f.what, f.state) for f in findings])
    for finding in findings if options.verbose else ():
        if finding.trace:
            print(f"\n{finding.what}\n{finding.trace}")
    return int(any(finding.grade == "problem" for finding in findings))


def _list(options: argparse.Namespace) -> int:
    from qbench_suite import listing

    if options.kind == "columns":
        from qbench_suite.results import columns_markdown

        print(columns_markdown())
        return 0
    rows = listing.rows(_manager(options), options.kind, options)
    _print_table(rows)
    return 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    sys.exit(main())
