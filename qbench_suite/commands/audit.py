"""``qbench audit``: whether compiled code, or the integer blocks of a model, compute with floats."""

from __future__ import annotations

import argparse
from pathlib import Path

from qbench_suite.commands.policy import add_plugin_options

#: Images that blocks are calibrated on: what operations run does not depend on them.
_IMAGES = 8


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``audit library`` and ``audit model``."""
    audit = commands.add_parser("audit", help="whether code that should be integer uses floats")
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    library = actions.add_parser("library", help="the instructions of shared libraries")
    library.add_argument("files", nargs="+", type=Path, metavar="FILE")
    library.set_defaults(run=_library)
    model = actions.add_parser("model", help="the blocks of a model that a method made integer")
    model.add_argument("model", metavar="MODEL", help="name of a model")
    model.add_argument("method", metavar="METHOD", help="name of a method: qbench list integers")
    add_plugin_options(model)
    model.set_defaults(run=_model)


def _library(options: argparse.Namespace) -> int:
    from qbench_suite.compliance.integer import audit_disassembly

    audits = [audit_disassembly(file) for file in options.files]
    for audit in audits:
        print(audit)
    return int(not all(audit.passed for audit in audits))


def _model(options: argparse.Namespace) -> int:
    from qbench_suite.compliance.rules import IntegerRules
    from qbench_suite.engine import Engine
    from qbench_suite.engine.integer_blocks import audited, calls_of, structures
    from qbench_suite.manager import default_manager

    manager = default_manager(disabled=options.disable_plugin, files=options.plugin)
    method = manager.integer_methods.get(options.method)
    engine = Engine(manager)
    model = engine.pool.get(options.model)
    dataset = engine.dataset_of(model)
    images = engine.subjects.calibration(options.model, dataset, _IMAGES, 0).sample(_IMAGES)
    blocks = method.convert(model.module, [images]).blocks
    calls = calls_of(model.module, blocks, images[:2])
    chosen = structures(blocks, calls)
    verdicts = [audited(blocks[name], calls[name], IntegerRules()) for name in chosen]
    for name, verdict in zip(chosen, verdicts, strict=True):
        print(f"{name}, {type(blocks[name]).__name__}: {verdict}")
    return int(not all(verdict.integer_only for verdict in verdicts))
