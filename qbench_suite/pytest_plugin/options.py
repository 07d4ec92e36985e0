"""Options of the suite, and the two that it changes of pytest-benchmark."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench_suite.pytest_plugin.option_table import OPTIONS

if TYPE_CHECKING:
    from qbench_suite.engine import Selection, Settings

#: Fixtures that a case file asks for to be parametrized over the grid.
CASE_FIXTURES = frozenset({"layer_case", "format_case", "quantizer_case"})
#: What ``--benchmark-json`` without a path holds until the run's folder is known.
IN_RUN_FOLDER = Path("(folder of the run)") / "benchmark.json"


def add_options(parser: pytest.Parser) -> None:
    """Register every ``--qbench-*`` option and ini key."""
    group = parser.getgroup("qbench", "low-precision benchmark grid")
    for name, attributes in OPTIONS.items():
        group.addoption(name, **attributes)
    parser.addini("qbench_plugins", "plugin files to load", type="paths", default=[])


def selection(config: pytest.Config) -> Selection:
    """Which entries the options select."""
    from qbench_suite.engine import Selection

    return Selection(
        **{
            axis: config.getoption(f"qbench_{axis}")
            for axis in ("models", "formats", "modes", "layers")
        }
    )


def settings(config: pytest.Config) -> Settings:
    """What the options say of every case; raises ``UsageError`` for a value that makes no sense."""
    from qbench_suite.engine import Settings

    for name in ("batch", "rounds", "cache_mb"):
        value, option = config.getoption(f"qbench_{name}"), f"--qbench-{name.replace('_', '-')}"
        if value < 1:
            raise pytest.UsageError(
                f"{option} is at least 1; got {value}. Leave it out, or raise it."
            )
    if config.getoption("qbench_seed") < 0:
        raise pytest.UsageError("--qbench-seed is not negative. Leave it out, or raise it.")
    return Settings(
        seed=config.getoption("qbench_seed"),
        batch=config.getoption("qbench_batch"),
        cache_bytes=config.getoption("qbench_cache_mb") << 20,
        device=config.getoption("qbench_device"),
        dataset=config.getoption("qbench_data"),
        roles=_roles(config.getoption("qbench_role")),
        quantizer_shape=_shape(config.getoption("qbench_quantizer_shape")),
    )


def _roles(specs: list[str]) -> dict[str, str]:
    from qbench_suite.layers import Role

    roles = {}
    for spec in specs:
        role, equals, quantizer = spec.partition("=")
        if not equals or role not in set(Role):
            raise pytest.UsageError(
                f"--qbench-role takes ROLE=FORMAT-MODE with a role of {', '.join(Role)}; got {spec!r}. "
                "Write for instance --qbench-role weight=int4-chunk64."
            )
        roles[role] = quantizer
    return roles


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if not all(size.isdigit() and int(size) for size in sizes):
        raise pytest.UsageError(
            f"--qbench-quantizer-shape takes lengths joined by x; got {text!r}. Write for instance "
            "4096x4096."
        )
    return tuple(int(size) for size in sizes)


def load_pytest_benchmark(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register pytest-benchmark now, under its entry point's name.

    This plugin is loaded before entry points are, and options can be changed only once they exist.
    """
    if pluginmanager.is_blocked("benchmark") or pluginmanager.has_plugin("benchmark"):
        return
    pluginmanager.register(importlib.import_module("pytest_benchmark.plugin"), "benchmark")


def optional_json_path(parser: pytest.Parser) -> None:
    """Let ``--benchmark-json`` stand without a path: the file then goes to the run's folder."""
    for option in parser.getgroup("benchmark").options:
        if option.dest == "benchmark_json":
            option.attrs().update(nargs="?", const=IN_RUN_FOLDER)


def require_pytest_benchmark(config: pytest.Config) -> None:
    """Raise ``UsageError`` where pytest-benchmark, by which cases are timed, is blocked."""
    if not config.pluginmanager.has_plugin("benchmark"):
        raise pytest.UsageError(
            "Cases are timed by pytest-benchmark; -p no:benchmark blocks it. Leave that out; for rows "
            "without latency pass --benchmark-disable."
        )


def prepare_pytest_benchmark(config: pytest.Config, folder: Path) -> None:
    """Put the JSON where the run is, and leave the report to the suite's own table."""
    path = config.getoption("benchmark_json", None)
    if path == IN_RUN_FOLDER:
        config.option.benchmark_json = folder / IN_RUN_FOLDER.name
    elif path and (path.is_dir() or path.suffix == ".py" or "::" in str(path)):
        raise pytest.UsageError(
            f"--benchmark-json takes the path of the file to write; got {str(path)!r}. Put it last, or "
            "write --benchmark-json=PATH."
        )
    if not config.getoption("benchmark_verbose", False):
        config.option.benchmark_quiet = True
