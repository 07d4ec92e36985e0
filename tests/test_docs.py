"""Documentation is run: every plugin snippet, every option it names, the table of columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from qbench_suite.engine import Engine, LayerCase, LinearCase, NormCase, Settings
from qbench_suite.engine.grid import FormatCase, Selection
from qbench_suite.layers import Role, resolve_function
from qbench_suite.manager import default_manager
from qbench_suite.pytest_plugin.option_table import OPTIONS
from qbench_suite.scaling import Quantizer, compiling
from qbench_suite.timing import RoundTimer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(language: str) -> list[tuple[str, str]]:
    """(page and number, text) of every fenced block of a language."""
    return [
        (f"{page.relative_to(ROOT)}#{number}", block)
        for page in PAGES
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        )
    ]


PLUGINS = [(name, text) for name, text in snippets("python") if "@hookimpl" in text]


@pytest.mark.parametrize("text", [t for _, t in PLUGINS], ids=[n for n, _ in PLUGINS])
def test_each_plugin_snippet_loads_and_its_entries_run(text: str, tmp_path: Path) -> None:
    file = tmp_path / f"snippet_{abs(hash(text))}.py"
    file.write_text(text, encoding="utf-8")
    manager = default_manager(files=[file])
    assert not manager.problems
    engine = Engine(manager, Settings(batch=2))
    new = [p for p in manager.plugins if p.owner.module == str(file)]
    assert len(new) == 1
    with compiling.eager():
        for format in manager.formats.names():
            if manager.formats.owner(format).module == str(file):
                row = engine.run(FormatCase(format, "normal"), RoundTimer(1, 0))
                assert row.outcome == "passed", row.reason
        for model in manager.models.names():
            if manager.models.owner(model).module == str(file):
                cases = engine.layer_cases(Selection(models=model, formats="int8", modes="tensor"))
                rows = [engine.run(case, RoundTimer(1, 0)) for case in cases]
                assert rows
                assert {row.outcome for row in rows} == {"passed"}
        for linear in manager.linears:
            if manager.linears.owner(linear.name).module == str(file):
                for dtype in linear.dtypes:
                    case = LinearCase(linear.name, dtype, "32x64", 3, linear.format)
                    assert engine.unavailable(case) == ""
                    row = engine.run(case, RoundTimer(1, 0))
                    assert row.outcome == "passed", row.reason
        run_norm_kernels(engine, str(file))
        for mode in manager.modes.names():
            if manager.modes.owner(mode).module == str(file):
                case = LayerCase("vit", "fp8_e4m3", mode, "head")
                row = engine.run(case, RoundTimer(1, 0))
                assert row.outcome == "passed", row.reason


def run_norm_kernels(engine: Engine, module: str) -> None:
    """Measure each norm kernel of ``module`` that runs here on a small shape."""
    known = engine.manager.norm_kernels
    for kernel in known:
        if known.owner(kernel.name).module == module:
            shape = "x".join(["4"] * (kernel.operation.rank - 1) + ["64"])
            case = NormCase(kernel.provider, kernel.operation.name, shape, "float32", "fp32")
            if engine.unavailable(case) == "":
                row = engine.run(case, RoundTimer(1, 0))
                assert row.outcome == "passed", row.reason


def test_the_function_snippet_computes_what_its_functions_do(tmp_path: Path) -> None:
    (text,) = (text for _, text in PLUGINS if "qbench_register_functions" in text)
    file = tmp_path / "function_snippet.py"
    file.write_text(text, encoding="utf-8")
    manager = default_manager(files=[file])
    entries = [e for e in manager.functions if manager.functions.owner(e.name).module == str(file)]
    quantizer = Quantizer(manager.formats.get("int8"), manager.modes.get("tensor"))
    args = (torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    for dotted in entries[0].function.functions:
        function = resolve_function(dotted)
        assert function is not None, dotted
        assert entries[0].function.misfit(function, args, {}) == ""
        assert entries[0].function.misfit(function, (args[0], 1), {})
        with compiling.eager():
            found = entries[0].function({Role.INPUT: quantizer}).call(function, args, {})
        expected = function(args[0].clone(), args[1])
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
        assert not torch.equal(found, expected)


def test_every_page_has_its_snippets_found() -> None:
    assert len(PLUGINS) >= 6


def test_every_option_a_page_names_exists() -> None:
    known = set(OPTIONS)
    for page in PAGES:
        named = set(re.findall(r"--qbench-[a-z0-9-]+", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name} names {sorted(named - known)}"


def test_every_relative_link_leads_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_architecture_page_draws_the_layers_that_ci_enforces() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"```\n(pytest_plugin.*?)```", page, re.DOTALL)
    assert drawn
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    enforced = re.search(r"layers = \[\n(.*?)\n\]", config, re.DOTALL)
    assert enforced
    lines = [line.strip(' ",').replace("qbench_suite.", "") for line in enforced[1].splitlines()]
    assert drawn[1].split("\n")[:-1] == lines
