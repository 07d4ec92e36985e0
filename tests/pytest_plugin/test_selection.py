"""Ids, marks, options and order: what is collected, and how often a model is loaded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Checkout, Running

TABLE_ROW = "cases/test_layers.py::test_layer[resnet-fp8_e4m3-chunk128-layer1.0.conv1]"
#: Its model has a hundred layers, its name all that a name may hold.
BROAD = """
from torch import nn

from qbench_suite import FloatFormat, ModelEntry, hookimpl


@hookimpl
def qbench_register_models(register):
    build = lambda: nn.Sequential(*(nn.ReLU() for _ in range(100)))
    register(ModelEntry(name="broad:a/b", build=build, input_size=(1, 2, 2)))


@hookimpl
def qbench_register_formats(register):
    register(FloatFormat(name="aaa8", exponent_bits=4, mantissa_bits=3))
"""
TWINS = """
from torch import nn

from qbench_suite import ModelEntry, hookimpl


@hookimpl
def qbench_register_models(register):
    for name in ("twin:a", "twin/a"):
        register(ModelEntry(name=name, build=nn.ReLU, input_size=(1, 2, 2)))
"""


@pytest.fixture(scope="module")
def shared(new_checkout: Callable[[], Checkout]) -> Checkout:
    checkout = new_checkout()
    checkout.write("broad.py", BROAD)
    return checkout


def collected(run: Running) -> list[str]:
    """Node ids that ``--collect-only -q`` printed."""
    assert run.code == pytest.ExitCode.OK
    return [line for line in run.output.splitlines() if "::" in line]


@pytest.fixture(scope="module")
def layer_ids(shared: Checkout) -> list[str]:
    return collected(shared.measure("--collect-only", "-q"))


def test_an_id_reads_as_a_row_of_a_table(shared: Checkout) -> None:
    assert TABLE_ROW in collected(shared.pytest("--collect-only", "-q", "-k", "resnet and layer1"))


def test_an_id_from_a_table_runs_that_case_alone(shared: Checkout) -> None:
    assert collected(shared.pytest("--collect-only", "-q", TABLE_ROW)) == [TABLE_ROW]


def test_ids_are_sorted_by_their_axes(layer_ids: list[str]) -> None:
    assert layer_ids == [
        f"cases/test_layers.py::test_layer[tiny-{format}-{mode}-{layer}]"
        for format in ("fp8_e4m3", "int8")
        for mode in ("channel", "tensor")
        for layer in "013"
    ]


def test_ids_do_not_depend_on_other_plugins(shared: Checkout, layer_ids: list[str]) -> None:
    again = shared.measure(
        "--collect-only", "-q", "--qbench-plugin=broad.py", "--qbench-disable-plugin=qbench_zoo"
    )
    assert collected(again) == layer_ids


def test_a_plugin_adds_ids_and_changes_none(shared: Checkout) -> None:
    formats = ("cases/test_formats.py", "--collect-only", "-q")
    before = collected(shared.pytest(*formats))
    after = collected(shared.pytest(*formats, "--qbench-plugin=broad.py"))
    assert [i for i in after if "aaa8" not in i] == before
    assert len(after) == len(before) + 5


def test_other_characters_of_a_name_become_dots(shared: Checkout) -> None:
    ids = collected(
        shared.pytest(
            "cases/test_layers.py",
            "--collect-only",
            "-q",
            "--qbench-plugin=broad.py",
            "--qbench-models=broad:a/b",
            "--qbench-layers=7",
            "--qbench-formats=fp8_e4m3+stochastic",
            "--qbench-modes=tensor",
        )
    )
    assert ids == ["cases/test_layers.py::test_layer[broad.a.b-fp8_e4m3+stochastic-tensor-7]"]


def test_names_that_make_one_id_are_refused(checkout: Checkout) -> None:
    checkout.write("twins.py", TWINS)
    run = checkout.pytest(
        "cases/test_layers.py", "--qbench-plugin=twins.py", "--qbench-models=twin*"
    )
    assert run.code == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in run.output


@pytest.mark.parametrize("mark", ["fp8_e4m3", "int8"])
def test_a_format_is_an_exact_mark(shared: Checkout, mark: str) -> None:
    every = ("cases", "--collect-only", "-q", "--qbench-models=resnet", "-m", mark)
    found = collected(shared.pytest(*every))
    whole = [i for i in found if "test_models.py" in i]
    ids = [i for i in found if i not in whole and "test_integer_vit.py" not in i]
    assert {i.partition("[")[2].removeprefix("resnet-").split("-")[0] for i in ids} == {mark}
    assert len({i.partition("::")[0] for i in ids}) == 3
    # A policy may use several formats; its case has the marks of all of them.
    for i in whole:
        policy = i.partition("resnet-")[2].rstrip("]")
        text = (shared.root / "plugins" / "qbench_policies" / f"{policy}.yaml").read_text("utf-8")
        assert f"format: {mark}\n" in text, i


def test_marks_that_no_format_has_are_refused_under_strict(checkout: Checkout) -> None:
    checkout.write("cases/test_own.py", "import pytest\n\n@pytest.mark.fp9\ndef test_it(): pass\n")
    run = checkout.pytest("cases/test_own.py")
    assert "'fp9' not found in `markers`" in run.output


def test_k_is_a_filter_on_what_the_options_leave(shared: Checkout) -> None:
    ids = collected(shared.measure("--collect-only", "-q", "-k", "int8 and channel"))
    assert [i.partition("[")[2] for i in ids] == [f"tiny-int8-channel-{n}]" for n in "013"]


def test_options_filter_before_pytest_sees_a_case(shared: Checkout) -> None:
    run = shared.measure("--collect-only", "-q", "--qbench-layers=0", "--qbench-formats=int*")
    assert "3 tests collected" not in run.output
    assert {i.partition("-")[2] for i in collected(run)} == {
        f"{format}-{mode}-0]"
        for format in ("int3", "int4", "int8")
        for mode in ("channel", "tensor")
    }
    assert "deselected" not in run.output


def test_names_given_twice_are_collected_once(shared: Checkout, layer_ids: list[str]) -> None:
    doubled = ("--qbench-formats=int8,fp8_e4m3,int8,*e4m3", "--qbench-layers=0,0,1,3,*")
    assert collected(shared.measure("--collect-only", "-q", *doubled)) == layer_ids


def test_ten_thousand_cases_are_collected(shared: Checkout) -> None:
    run = shared.pytest(
        "cases/test_layers.py",
        "--collect-only",
        "-qq",
        "--qbench-plugin=broad.py",
        "--qbench-models=broad*",
        "--qbench-formats=fp8*,fp6*,fp4*,int*",
        "--qbench-modes=tensor,channel,token,chunk16,chunk32,chunk64,chunk128,block4x4,block8x8,block2x2",
    )
    assert run.code == pytest.ExitCode.OK
    assert "cases/test_layers.py: 11000" in run.output


def test_collecting_writes_nothing(checkout: Checkout) -> None:
    checkout.measure("--collect-only", "-q", "--benchmark-json")
    assert not (checkout.folder / "results").exists()


def test_a_model_is_loaded_once_whatever_the_order(
    checkout: Checkout, layer_ids: list[str]
) -> None:
    shuffled = random.Random(0).sample(layer_ids, len(layer_ids))
    run = checkout.pytest(
        "cases/test_quantizers.py", *shuffled, *checkout.grid[1:], "--qbench-quantizer-shape=4x64"
    )
    assert run.code == pytest.ExitCode.OK
    assert checkout.loads() == ["tiny"]
    finished = checkout.run_folder().cases("finished")
    assert finished[:12] == [f"layers/{i.partition('[')[2][:-1]}" for i in layer_ids]
    assert [case.partition("/")[0] for case in finished[12:]] == ["quantizers"] * 4
