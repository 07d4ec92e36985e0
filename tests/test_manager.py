"""Plugins: where they come from, whose an entry is, and that one's mistakes stay its own."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from qbench_suite import (
    CodebookFormat,
    DuplicateNameError,
    Family,
    Manager,
    Mode,
    ModelEntry,
    NameNotFoundError,
    PerTensor,
    PluginError,
    Rounding,
    UnknownHookError,
    default_manager,
    hookimpl,
)
from qbench_suite.registry import Owner

FORMAT_PLUGIN = """
from qbench_suite import CodebookFormat, hookimpl

@hookimpl
def qbench_register_formats(register):
    register(CodebookFormat(name="{name}", bits=1, values=(-1.0, 1.0)))
"""


def signs(name: str) -> CodebookFormat:
    return CodebookFormat(name=name, bits=1, values=(-1.0, 1.0))


def plugin(name: str, **hooks: Callable[..., Any]) -> types.ModuleType:
    """A module called ``name`` with these functions as hooks."""
    module = types.ModuleType(name)
    for hook, function in hooks.items():
        function.__name__ = hook
        setattr(module, hook, hookimpl(function))
    return module


def format_plugin(name: str, *formats: object) -> types.ModuleType:
    return plugin(
        name, qbench_register_formats=lambda register: [register(f) for f in formats] and None
    )


def taken(*plugins: types.ModuleType) -> Manager:
    manager = Manager()
    for module in plugins:
        manager.register(module)
    return manager


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a distribution of one module and one entry point into a folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def install(distribution: str, module: str, text: str, point: str = "formats") -> None:
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(f"[qbench]\n{point} = {module}\n")

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def from_entry_points(*disabled: str) -> Manager:
    manager = Manager(disabled=disabled)
    manager.load_entry_points()
    return manager


def test_two_distributions_may_call_their_entry_points_alike(install: Callable[..., None]) -> None:
    install("dist-one", "fake_one", FORMAT_PLUGIN.format(name="signs1"))
    install("dist-two", "fake_two", FORMAT_PLUGIN.format(name="signs2"))
    manager = from_entry_points()
    assert {"signs1", "signs2"} <= set(manager.formats.names())
    assert manager.formats.owner("signs1") == Owner("fake_one", "dist-one", "1.2")
    assert str(manager.formats.owner("signs2")) == "fake_two (dist-two 1.2)"


def test_import_error_takes_no_other_plugin_down(install: Callable[..., None]) -> None:
    install("dist-bad", "fake_bad", "import no_such_library\n")
    install("dist-good", "fake_good", FORMAT_PLUGIN.format(name="signs3"))
    manager = from_entry_points()
    assert "signs3" in manager.formats
    (problem,) = manager.problems
    assert problem.plugin == "fake_bad (dist-bad 1.2)"
    assert "no_such_library" in problem.reason
    assert "Install no_such_library" in problem.remedy
    assert "--qbench-disable-plugin fake_bad" in problem.remedy
    assert not problem.fatal
    assert "fake_bad.py" in problem.trace
    manager.check()
    with pytest.raises(PluginError, match="no_such_library"):
        manager.check(strict=True)


@pytest.mark.parametrize(
    "text", ["import sys\nsys.exit(3)\n", "1/0\n", "raise ValueError('a\\nb')"]
)
def test_plugin_that_ends_badly_takes_no_other_down(
    install: Callable[..., None], text: str
) -> None:
    install("dist-bad", "fake_bad", text)
    install("dist-good", "fake_good", FORMAT_PLUGIN.format(name="signs3"))
    manager = from_entry_points()
    assert "signs3" in manager.formats
    (problem,) = manager.problems
    assert "\n" not in problem.reason


@pytest.mark.parametrize("disabled", ["fake_one", "the-point", "dist-one"])
def test_plugin_is_disabled_by_module_entry_point_or_distribution(
    install: Callable[..., None], disabled: str
) -> None:
    install("dist-one", "fake_one", "raise RuntimeError('imported')", point="the-point")
    install("dist-two", "fake_two", FORMAT_PLUGIN.format(name="signs2"))
    manager = from_entry_points(disabled)
    assert not manager.problems, "a disabled plugin is not even imported"
    assert "signs2" in manager.formats


def test_plugin_installed_and_in_the_checkout_is_loaded_once(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install("dist-one", "fake_one", FORMAT_PLUGIN.format(name="signs1"))
    manager = from_entry_points()
    manager.load_folder(tmp_path)
    assert not manager.problems
    assert manager.formats.owner("signs1").distribution == "dist-one"


def test_plugin_that_failed_is_told_of_once(install: Callable[..., None], tmp_path: Path) -> None:
    install("dist-bad", "fake_bad", "import no_such_library\n")
    manager = from_entry_points()
    manager.load_folder(tmp_path)
    assert len(manager.problems) == 1


def test_folder_gives_packages_and_modules_but_no_private_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "fake_module.py").write_text(FORMAT_PLUGIN.format(name="m"))
    (tmp_path / "fake_package").mkdir()
    (tmp_path / "fake_package" / "__init__.py").write_text(FORMAT_PLUGIN.format(name="p"))
    (tmp_path / "_private.py").write_text("1/0")
    (tmp_path / "no_package").mkdir()
    (tmp_path / "readme.txt").write_text("")
    manager = Manager()
    manager.load_folder(tmp_path)
    assert [p.owner.module for p in manager.plugins] == ["fake_module", "fake_package"]
    assert not manager.problems


def test_file_is_a_plugin(tmp_path: Path) -> None:
    file = tmp_path / "my_format.py"
    file.write_text(FORMAT_PLUGIN.format(name="mine"))
    manager = Manager()
    manager.load_file(file)
    manager.load_file(file)
    assert manager.formats.owner("mine") == Owner(str(file))
    assert [p.hooks for p in manager.plugins] == [("qbench_register_formats",)]


def test_files_may_be_named_by_text(tmp_path: Path) -> None:
    file = tmp_path / "my_named_format.py"
    file.write_text(FORMAT_PLUGIN.format(name="named"))
    manager = default_manager(files=[str(file)])
    assert not manager.problems
    assert manager.formats.owner("named") == Owner(str(file))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("absent.py", None, "absent.py is none"),
        ("plugin.txt", "", "plugin.txt is none"),
        ("broken.py", "def broken(:\n", "SyntaxError"),
        ("raises.py", "raise KeyError('why')", "KeyError: 'why'"),
    ],
)
def test_file_that_is_no_plugin_is_a_problem_with_a_remedy(
    tmp_path: Path, name: str, text: str | None, reason: str
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    manager = Manager()
    manager.load_file(file)
    (problem,) = manager.problems
    assert reason in problem.reason
    assert f"--qbench-disable-plugin {file}" in problem.remedy
    assert f"qbench_plugin_{file.stem}" not in sys.modules


def test_folder_is_no_plugin_file(tmp_path: Path) -> None:
    manager = Manager()
    manager.load_file(tmp_path)
    assert "Python file" in manager.problems[0].reason


def test_duplicate_name_is_fatal_and_names_both_owners() -> None:
    manager = taken(format_plugin("plug_a", signs("x")), format_plugin("plug_b", signs("x")))
    (problem,) = manager.problems
    assert problem.fatal
    assert "plug_a (local)" in problem.reason
    assert "plug_b (local)" in problem.reason
    with pytest.raises(PluginError, match="plug_b"):
        manager.check()


def test_duplicate_name_drops_the_second_plugin_whole() -> None:
    manager = taken(
        format_plugin("plug_a", signs("x")), format_plugin("plug_b", signs("y"), signs("x"))
    )
    assert manager.formats.names() == ["x"]
    assert [p.owner.module for p in manager.plugins] == ["plug_a"]


def test_name_registered_twice_by_one_plugin_is_fatal() -> None:
    manager = taken(format_plugin("plug_a", signs("x"), signs("x")))
    (problem,) = manager.problems
    assert problem.fatal
    assert "2 times" in problem.reason
    assert not manager.formats.names()


def test_one_name_may_be_a_format_and_a_mode() -> None:
    module = format_plugin("plug_a", signs("x"))
    mode = Mode(name="x", granularity=PerTensor())
    module.qbench_register_modes = plugin(  # type: ignore[attr-defined]
        "other", qbench_register_modes=lambda register: register(mode)
    ).qbench_register_modes
    manager = taken(module)
    assert not manager.problems
    assert manager.modes.get("x") is mode


def test_entries_of_a_plugin_that_raises_half_way_are_dropped() -> None:
    calls = []

    def half(register: Callable[[object], None]) -> None:
        register(signs("x"))
        raise RuntimeError("half-way")

    bad = plugin(
        "plug_a",
        qbench_register_formats=half,
        qbench_register_models=lambda register: register(ModelEntry(name="m", build=nn.Identity)),
        qbench_machine_info=lambda info: calls.append(info),
    )
    manager = taken(bad, format_plugin("plug_b", signs("y")))
    assert manager.formats.names() == ["y"]
    assert not manager.models.names()
    assert "RuntimeError: half-way" in manager.problems[0].reason
    assert not manager.problems[0].fatal
    manager.call("qbench_machine_info", info={})
    assert not calls, "a plugin that is not in use is not called"


def test_misspelt_hook_is_fatal_and_answered_with_the_right_name() -> None:
    manager = taken(plugin("plug_a", qbench_register_format=lambda register: None))
    (problem,) = manager.problems
    assert problem.fatal
    assert "'qbench_register_format' does not" in problem.reason
    assert "Did you mean qbench_register_formats" in problem.reason


def test_hook_without_the_decorator_is_fatal() -> None:
    module = types.ModuleType("plug_a")
    module.qbench_register_formats = lambda register: None  # type: ignore[attr-defined]
    (problem,) = taken(module).problems
    assert problem.fatal
    assert "@qbench_suite.hookimpl" in problem.reason


@pytest.mark.parametrize("specname", [None, "qbench_register_formatz"])
def test_marked_function_that_answers_to_no_hook_is_fatal(specname: str | None) -> None:
    def register_formats(register: Callable[[object], None]) -> None: ...

    module = types.ModuleType("plug_a")
    module.register_formats = hookimpl(specname=specname)(register_formats)  # type: ignore[attr-defined]
    (problem,) = taken(module).problems
    assert problem.fatal
    assert "qbench_register_formats" in problem.reason


def test_specname_lets_a_function_have_any_name() -> None:
    def mine(register: Callable[[object], None]) -> None:
        register(signs("x"))

    module = types.ModuleType("plug_a")
    module.mine = hookimpl(specname="qbench_register_formats")(mine)  # type: ignore[attr-defined]
    manager = taken(module)
    assert manager.plugins[0].hooks == ("qbench_register_formats",)
    assert "x" in manager.formats


def test_hook_with_an_argument_it_does_not_get_leaves_nothing_of_its_plugin() -> None:
    calls = []
    manager = taken(
        plugin(
            "plug_a",
            qbench_machine_info=lambda info: calls.append(info),
            qbench_register_formats=lambda registrar: None,
        )
    )
    assert "registrar" in manager.problems[0].reason
    assert not manager._plugins.get_plugins()
    manager.call("qbench_machine_info", info={})
    assert not calls


@pytest.mark.parametrize("name", ["my format", "my-format", "", "fp8,int8", "été"])
def test_names_are_made_of_few_characters(name: str) -> None:
    manager = taken(format_plugin("plug_a", signs(name)))
    assert "letters, digits" in manager.problems[0].reason
    assert not manager.formats.names()


@pytest.mark.parametrize("entry", [3, "fp8", None, object()])
def test_only_named_things_are_registered(entry: object) -> None:
    manager = taken(format_plugin("plug_a", entry))
    assert "Pass a Format" in manager.problems[0].reason


def test_class_that_is_no_layer_is_refused() -> None:
    manager = taken(plugin("plug_a", qbench_register_layers=lambda register: register(nn.Linear)))
    assert "float_types" in manager.problems[0].reason
    assert "QuantModule" in manager.problems[0].reason


@pytest.mark.parametrize("backwards", [False, True])
def test_names_do_not_depend_on_the_order_of_plugins(backwards: bool) -> None:
    plugins = [format_plugin("plug_a", signs("z"), signs("b")), format_plugin("plug_b", signs("a"))]
    manager = taken(*(reversed(plugins) if backwards else plugins))
    assert manager.formats.names() == ["a", "b", "z"]


def test_variants_follow_from_a_format_and_are_its_owners() -> None:
    manager = taken(format_plugin("plug_a", signs("x")))
    variant = manager.formats.get("x+stochastic")
    assert (variant.name, variant.rounding) == ("x+stochastic", Rounding.STOCHASTIC)
    assert manager.formats.owner("x+stochastic").module == "plug_a"
    for name in ("x+sideways", "y+stochastic"):
        with pytest.raises((NameNotFoundError, ValueError)):
            manager.formats.get(name)


def test_name_of_a_variant_is_not_free() -> None:
    (problem,) = taken(format_plugin("plug_a", signs("x+truncate"))).problems
    assert problem.fatal
    assert "<format>+<variant>" in problem.reason


def test_family_of_a_plugin_is_taken() -> None:
    modes = Family("wide<N>", r"wide(\d+)", lambda m: Mode(name=m[0], granularity=PerTensor()))
    manager = taken(plugin("plug_a", qbench_register_modes=lambda register: register(modes)))
    assert manager.modes.get("wide3").name == "wide3"


def test_plugin_that_raises_when_called_does_not_silence_the_others() -> None:
    def bad(info: dict[str, Any]) -> None:
        raise OSError("no such card")

    def good(info: dict[str, Any]) -> None:
        info["card"] = 1

    manager = taken(
        plugin("plug_a", qbench_machine_info=good),
        plugin("plug_b", qbench_machine_info=bad),
        plugin("plug_c", qbench_machine_info=lambda info: info.update(other=2)),
    )
    info: dict[str, Any] = {}
    manager.call("qbench_machine_info", info=info)
    assert info == {"card": 1, "other": 2}
    assert "no such card" in manager.problems[0].reason


def test_objects_with_hooks_are_plugins_too() -> None:
    class Mine:
        @hookimpl
        def qbench_register_formats(self, register: Callable[[object], None]) -> None:
            register(signs("x"))

    manager = Manager()
    manager.register(Mine())
    assert manager.formats.owner("x") == Owner("Mine")


def test_only_modules_with_hooks_are_worth_offering() -> None:
    manager = Manager()
    assert manager.has_hooks(format_plugin("plug_a"))
    assert not manager.has_hooks(types.ModuleType("plain"))
    assert not manager.has_hooks("text")


def test_errors_of_duplicates_are_those_of_the_tree() -> None:
    assert issubclass(UnknownHookError, PluginError)
    assert issubclass(DuplicateNameError, ValueError)


def test_plugins_that_ship_load_without_a_problem() -> None:
    manager = default_manager()
    assert not manager.problems
    assert {"qbench_formats", "qbench_modes", "qbench_layers", "qbench_zoo"} <= {
        plugin.owner.module for plugin in manager.plugins
    }
    assert manager.modes.get("chunk48").name == "chunk48"
    assert manager.formats.get("fp8_e4m3+stochastic").noisy
