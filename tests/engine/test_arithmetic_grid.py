"""The grid of what computes in low precision: ids, selection, and what keeps it out of other runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from qbench_suite import (
    IntegerMethod,
    IntegerModel,
    LinearEntry,
    Manager,
    NameNotFoundError,
    SelectionError,
)
from qbench_suite.engine import IntegerCase, LinearCase, Selection
from qbench_suite.engine.arithmetic_grid import integer_cases, linear_cases

MakeManager = Callable[..., Manager]
TABLES = ("layers", "formats", "quantizers", "models", "linears", "integers")
EMULATED = {"layers", "formats", "quantizers"}


def refuse(*_: object) -> IntegerModel:
    raise AssertionError("nothing is converted to list cases")


@pytest.fixture
def manager(make_manager: MakeManager) -> Manager:
    return make_manager(
        {"a": nn.Identity, "b": nn.Identity},
        linears=[
            LinearEntry(name="x8", build=lambda linear: linear, format="int8", default=True),
            LinearEntry(name="x:4", build=lambda linear: linear, format="fp8", dtypes=("float32",)),
        ],
        integer_methods=[
            IntegerMethod(name="m.1", convert=refuse, default=True, default_models=("b",)),
            IntegerMethod(name="m.2", convert=refuse, format="fp8", default_models=("a", "b")),
        ],
    )


def linears(manager: Manager, **chosen: str) -> list[str]:
    return [case.id for case in linear_cases(Selection(**chosen), manager)]


def integers(manager: Manager, **chosen: str) -> list[str]:
    return [case.id for case in integer_cases(Selection(**chosen), manager)]


def test_ids_say_every_axis_and_no_more() -> None:
    case = LinearCase("a:b", "bfloat16", "4096x1024", 64, "int8")
    assert (case.id, case.key) == ("a.b-bfloat16-4096x1024-64", f"linears/{case.id}")
    assert case.lengths == (4096, 1024)
    assert case.marks == ("int8",)
    whole = IntegerCase("timm:vit/tiny", "m.1", "int8")
    assert (whole.key, whole.marks) == ("integers/timm.vit.tiny-m.1", ("int8",))


def test_default_grid_holds_default_entries_on_their_dtypes(manager: Manager) -> None:
    rows = (1, 4, 16, 64, 256, 2048)
    assert linears(manager) == [
        f"x8-{dtype}-4096x4096-{n}" for dtype in ("bfloat16", "float32") for n in rows
    ]
    assert integers(manager) == ["b-m.1"]


def test_options_choose_entries_sizes_and_rows(manager: Manager) -> None:
    chosen = linears(manager, linears="x*4", linear_sizes="8x4, 2x6,8x4", linear_rows="10,2")
    assert chosen == [
        "x.4-float32-2x6-2", "x.4-float32-2x6-10", "x.4-float32-8x4-2", "x.4-float32-8x4-10",
    ]  # fmt: skip
    assert integers(manager, integers="*") == ["a-m.2", "b-m.1", "b-m.2"]
    assert integers(manager, integers="m.1", models="*") == ["a-m.1", "b-m.1"]


@pytest.mark.parametrize("choose", [linears, integers])
def test_formats_leave_out_what_stores_others(
    manager: Manager, choose: Callable[..., list[str]]
) -> None:
    kind = choose.__name__
    everything = choose(manager, **{kind: "*"})
    kept = choose(manager, **{kind: "*"}, formats="int8")
    assert kept
    assert set(kept) < set(everything)
    assert choose(manager, formats="bf16") == []


@pytest.mark.parametrize("sizes", ["", "4096", "4096x", "0x8", "8x-1", "8x8x8", "8x8,,", "08x8"])
def test_sizes_are_two_lengths(manager: Manager, sizes: str) -> None:
    with pytest.raises(
        SelectionError, match=r"--qbench-linear-sizes takes a comma list like 4096x"
    ):
        linears(manager, linear_sizes=sizes)


@pytest.mark.parametrize("rows", ["", "0", "-1", "1.5", "one"])
def test_rows_are_numbers_above_0(manager: Manager, rows: str) -> None:
    with pytest.raises(SelectionError, match=r"--qbench-linear-rows takes .* got"):
        linears(manager, linear_rows=rows)


def test_names_that_match_nothing_are_mistakes(manager: Manager) -> None:
    with pytest.raises(NameNotFoundError, match="x9"):
        linears(manager, linears="x9")
    with pytest.raises(NameNotFoundError, match=r"m\.9"):
        integers(manager, integers="m.9")


@pytest.mark.parametrize(
    ("chosen", "tables"),
    [
        ({}, set(TABLES)),
        ({"formats": "int8"}, set(TABLES)),
        ({"models": "a"}, set(TABLES) - {"linears"}),
        ({"modes": "tensor"}, EMULATED),
        ({"layers": "1"}, EMULATED),
        ({"policies": "p"}, {"models"}),
        ({"policies": "p", "formats": "int8"}, {"models"} | EMULATED),
        ({"policies": "p", "layers": "1"}, {"models"} | EMULATED),
        ({"linears": "x8"}, {"linears"}),
        ({"linear_sizes": "8x8", "formats": "int8"}, {"linears"}),
        ({"linear_rows": "1"}, {"linears"}),
        ({"integers": "m.1", "models": "a"}, {"integers"}),
        ({"integers": "m.1", "linears": "x8"}, {"integers", "linears"}),
        ({"integers": "m.1", "policies": "p"}, {"integers", "models"}),
    ],
)  # fmt: skip
def test_options_of_one_kind_bring_no_other_kind_in(
    chosen: dict[str, str], tables: set[str]
) -> None:
    selection = Selection(**chosen)
    assert {table for table in TABLES if selection.concerns(table)} == tables


def test_no_case_is_a_mistake_where_options_ask_for_some() -> None:
    assert not Selection(formats="fp8").asks_for("linears")
    assert not Selection(models="a").asks_for("integers")
    assert Selection(linear_rows="1").asks_for("linears")
    assert Selection(integers="m.1").asks_for("integers")
    assert Selection(formats="fp8").asks_for("layers")
    assert not Selection().asks_for("layers")
