"""Options of the suite, and the two that it changes of pytest-benchmark."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qbench_suite.engine import Selection, Settings

#: Fixtures that a case file asks for to be parametrized over the grid.
CASE_FIXTURES = frozenset({"layer_case", "format_case", "quantizer_case"})
#: What ``--benchmark-json`` without a path holds until the run's folder is known.
IN_RUN_FOLDER = Path("(folder of the run)") / "benchmark.json"


def add_options(parser: pytest.Parser) -> None:
    """Register every ``--qbench-*`` option and ini key."""
    group = parser.getgroup("qbench", "low-precision benchmark grid")
    patterns = "comma list of names or globs"
    group.addoption(
        "--qbench-models",
        metavar="NAMES",
        help=f"models of the grid: {patterns}; also timm:NAME, torchvision:NAME or the path of a checkpoint",
    )
    group.addoption(
        "--qbench-formats",
        metavar="NAMES",
        help=f"formats of the grid: {patterns}; a variant is written NAME+stochastic, +truncate, +away or +spec",
    )
    group.addoption(
        "--qbench-modes",
        metavar="NAMES",
        help=f"modes of the grid: {patterns}; also chunk<N> and block<N>x<M>",
    )
    group.addoption("--qbench-layers", metavar="NAMES", help=f"layers of the grid: {patterns}")
    group.addoption(
        "--qbench-role",
        action="append",
        default=[],
        metavar="ROLE=FORMAT-MODE",
        help="quantize weight, input, act, output or statistics otherwise than layers do by default: weight=int4-chunk64, input=none, statistics=case (repeatable)",
    )
    group.addoption(
        "--qbench-data",
        metavar="DATASET",
        help="dataset of the reference inputs in place of each model's own; random for normal noise",
    )
    group.addoption(
        "--qbench-batch",
        type=int,
        default=16,
        metavar="N",
        help="images in a reference input (default 16)",
    )
    group.addoption(
        "--qbench-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of inputs and stochastic rounding (default 0)",
    )
    group.addoption(
        "--qbench-device",
        default="cpu",
        metavar="DEVICE",
        help="torch device that cases run on (default cpu)",
    )
    group.addoption(
        "--qbench-rounds", type=int, default=5, metavar="N", help="timed rounds a case (default 5)"
    )
    group.addoption(
        "--qbench-quantizer-shape",
        default="4096x4096",
        metavar="AxB",
        help="shape of the tensor in throughput cases (default 4096x4096)",
    )
    group.addoption(
        "--qbench-cache-mb",
        type=int,
        default=1024,
        metavar="MB",
        help="bound on models and reference activations held in memory (default 1024)",
    )
    group.addoption(
        "--qbench-gates",
        type=Path,
        metavar="FILE",
        help="table of error gates in place of the suite's own",
    )
    group.addoption(
        "--qbench-results",
        type=Path,
        metavar="FOLDER",
        help="folder of runs (default results/ beside the configuration file)",
    )
    group.addoption(
        "--qbench-run", metavar="NAME", help="name of this run's folder (default: its time)"
    )
    group.addoption(
        "--qbench-resume",
        metavar="RUN",
        help="go on with a run: measure the cases that it has not finished; latest for the last one",
    )
    group.addoption(
        "--qbench-plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="load a plugin from one Python file (repeatable; ini key qbench_plugins)",
    )
    group.addoption(
        "--qbench-disable-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="do not load this plugin module or distribution (repeatable)",
    )
    group.addoption(
        "--qbench-strict-plugins", action="store_true", help="stop where any plugin fails to load"
    )
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
        if config.getoption(f"qbench_{name}") < 1:
            raise pytest.UsageError(
                f"--qbench-{name.replace('_', '-')} is at least 1; got {config.getoption(f'qbench_{name}')}."
            )
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
