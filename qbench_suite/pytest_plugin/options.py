"""Options of the suite, and the two that it changes of pytest-benchmark."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench_suite.pytest_plugin.option_table import OPTIONS

if TYPE_CHECKING:
    from qbench_suite.engine import Selection, Settings

#: Fixtures that a case file asks for to be parametrized over the grid.
CASE_FIXTURES = frozenset(
    f"{kind}_case"
    for kind in ("layer", "format", "quantizer", "model", "linear", "integer", "norm")
)
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

    return Selection(**{axis: config.getoption(f"qbench_{axis}") for axis in AXES})


#: Options that say which cases there are.
AXES = (
    "models",
    "formats",
    "modes",
    "layers",
    "policies",
    "linears",
    "linear_sizes",
    "linear_rows",
    "integers",
    "norms",
    "norm_shapes",
    "norm_dtypes",
)


#: Options that are numbers, and the least value of each.
_LEAST = {
    "batch": 1,
    "rounds": 1,
    "cache_mb": 1,
    "images": 1,
    "eval_batch": 1,
    "seed": 0,
    "broken_images": 0,
    "integer_calibration": 1,
}


def settings(config: pytest.Config, folder: Path) -> Settings:
    """What the options say of every case; ``UsageError`` for a value that makes no sense.

    ``folder``: the run's.
    """
    from qbench_suite.engine import Settings

    for name, least in _LEAST.items():
        value, option = config.getoption(f"qbench_{name}"), f"--qbench-{name.replace('_', '-')}"
        if value is not None and value < least:
            raise pytest.UsageError(
                f"{option} is at least {least}; got {value}. Leave it out, or raise it."
            )
    return Settings(
        seed=config.getoption("qbench_seed"),
        batch=config.getoption("qbench_batch"),
        cache_bytes=config.getoption("qbench_cache_mb") << 20,
        device=config.getoption("qbench_device"),
        dataset=config.getoption("qbench_data"),
        roles=_roles(config.getoption("qbench_role")),
        images=config.getoption("qbench_images"),
        eval_batch=config.getoption("qbench_eval_batch"),
        layerwise=config.getoption("qbench_layerwise") == "on",
        compliance=config.getoption("qbench_compliance"),
        broken_images=config.getoption("qbench_broken_images"),
        fp32_cache=_fp32_cache(config.getoption("qbench_fp32_cache")),
        unfinished=folder / "unfinished",
        integer_calibration=config.getoption("qbench_integer_calibration"),
        compiled_twin=config.getoption("qbench_compiled_twin") == "on",
        quantizer_shape=_shape(config.getoption("qbench_quantizer_shape")),
    )


def arguments(config: pytest.Config) -> str:
    """The suite's options as given, for a shell; without those that say where results go."""
    words = []
    for option, attributes in OPTIONS.items():
        value = config.getoption(option.removeprefix("--").replace("-", "_"))
        if option in _WHERE or value == attributes.get(
            "default", attributes.get("action") and False
        ):
            continue
        values = value if isinstance(value, list) else [value]
        words += [option if v is True else f"{option}={v}" for v in values]
    return shlex.join(words)


#: Options that say where a run is kept, not what it measures.
_WHERE = ("--qbench-results", "--qbench-run", "--qbench-resume")


def _fp32_cache(name: str | None) -> Path | None:
    if name == "none":
        return None
    return Path(name or "~/.cache/qbench/fp32").expanduser()


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
