"""Listings: headed rows of every kind, and filters."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from qbench_suite import (
    NORM_OPERATIONS,
    DatasetEntry,
    Family,
    IntegerMethod,
    IntFormat,
    LinearEntry,
    Manager,
    Mode,
    ModelEntry,
    NameNotFoundError,
    NormKernel,
    PerTensor,
    hookimpl,
)
from qbench_suite.listing import rows
from qbench_suite.policies import PolicyEntry
from qbench_suite.registry import Owner

INT8 = IntFormat(name="int8", bits=8, low=-127, high=127)


def filters(**chosen: str) -> Any:
    axes = dict.fromkeys(("models", "formats", "modes", "layers", "policies"))
    return SimpleNamespace(**{**axes, **chosen})


@pytest.fixture
def manager() -> Manager:
    def entries(*values: object) -> Callable[..., None]:
        def hook(register: Callable[[object], None]) -> None:
            for value in values:
                register(value)

        return hook

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Tanh())

    module, broken = types.ModuleType("plug"), types.ModuleType("broken")
    tensor = Mode(name="tensor", granularity=PerTensor(), default=True, description="one scale")
    kinds = {
        "formats": (INT8,),
        "modes": (tensor, Family("t<N>", r"t\d+", lambda match: tensor)),
        "models": (ModelEntry(name="m", build=model, input_size=(1, 2, 2), description="tiny"),),
        "datasets": (DatasetEntry(name="d", load=lambda split: [], num_classes=0),),  # type: ignore[arg-type,return-value]
    }
    for kind, values in kinds.items():
        name = f"qbench_register_{kind}"
        setattr(module, name, hookimpl(specname=name)(entries(*values)))
    broken.qbench_register_formats = hookimpl(specname="qbench_register_formats")(  # type: ignore[attr-defined]
        entries(3)
    )
    manager = Manager()
    manager.register(module)
    manager.register(broken)
    return manager


@pytest.mark.parametrize(
    "kind",
    [
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
    ],
)
def test_every_listing_has_a_heading_and_even_rows(manager: Manager, kind: str) -> None:
    heading, *body = rows(manager, kind, filters())
    assert all(heading)
    assert all(len(row) == len(heading) for row in body)
    assert all(isinstance(cell, str) for row in body for cell in row)


def test_plugins_in_use_come_before_broken_ones(manager: Manager) -> None:
    _, used, broken = rows(manager, "plugins", filters())
    assert used[:2] == ("plug (local)", "in use")
    assert broken[:2] == ("broken (local)", "broken")
    assert "Pass a Format" in broken[2]


def test_facts_of_a_format(manager: Manager) -> None:
    heading, row = rows(manager, "formats", filters())
    facts = dict(zip(heading, row, strict=True))
    assert facts["format"] == "int8"
    assert (facts["bits"], facts["values"], facts["max"], facts["smallest"]) == (
        "8",
        "255",
        "127",
        "1",
    )
    assert (facts["overflow"], facts["rounding"], facts["owner"]) == (
        "saturate",
        "nearest",
        "plug (local)",
    )
    assert rows(manager, "formats", filters(formats="int8+away"))[1][0] == "int8+away"


def test_families_are_listed_below_the_modes(manager: Manager) -> None:
    assert [row[0] for row in rows(manager, "modes", filters())] == ["mode", "tensor", "t<N>"]
    assert rows(manager, "modes", filters())[1][1:3] == ("yes", "one scale")


def test_policies_are_listed_by_name_then_any_file(manager: Manager) -> None:
    entry = PolicyEntry(name="p", path=Path("p.yaml"), description="mine", default=True)
    manager.policies.register(entry, Owner("test"))
    _, *body = rows(manager, "policies", filters())
    assert [row[:3] for row in body] == [("p", "yes", "mine"), ("<path>.yaml", "", "any file")]


def test_layers_of_a_model_say_what_stays_float(manager: Manager) -> None:
    _, *body = rows(manager, "layers", filters(models="m"))
    assert [row[:3] for row in body] == [("m", "0", "Flatten"), ("m", "1", "Tanh")]
    assert body[1][3].startswith("float: no registered layer")


def test_cases_are_those_of_the_filters(manager: Manager) -> None:
    _, *body = rows(manager, "cases", filters(formats="int8+truncate"))
    assert ("formats", "int8+truncate-normal") in body
    assert ("quantizers", "int8+truncate-tensor") in body


def test_linears_say_what_is_missing_here(manager: Manager) -> None:
    entries = (
        LinearEntry(name="a", build=lambda x: x, format="int8", default=True, description="mine"),
        LinearEntry(name="b", build=lambda x: x, format="int8", unavailable=lambda d: f"no {d}"),
    )
    for entry in entries:
        manager.linears.register(entry, Owner("test"))
    _, *body = rows(manager, "linears", filters())
    owner = str(Owner("test"))
    assert body == [
        ("a", "yes", "int8", "float32, bfloat16", "mine", "", owner),
        ("b", "", "int8", "float32, bfloat16", "", "no cpu", owner),
    ]
    _, *cases = rows(manager, "cases", filters())
    assert ("linears", "a-bfloat16-4096x4096-2048") in cases
    assert not [case for table, case in cases if table == "linears" and case.startswith("b-")]


def test_norm_kernels_say_what_is_missing_here(manager: Manager) -> None:
    operation = NORM_OPERATIONS["rms_norm_int8_token"]
    more: tuple[dict[str, Any], ...] = (
        {"provider": "a", "description": "mine"},
        {"provider": "b", "dtypes": ("float16",), "unavailable": lambda d: f"no {d}"},
    )
    for facts in more:
        kernel = NormKernel(
            operation=operation, prepare=operation.eager, default=facts["provider"] == "a", **facts
        )
        manager.norm_kernels.register(kernel, Owner("test"))
    _, *body = rows(manager, "norms", filters())
    name, owner = operation.name, str(Owner("test"))
    assert body == [
        (f"{name}:a", "yes", "float32, float16, bfloat16", "mine", "", owner),
        (f"{name}:b", "", "float16", operation.description, "no cpu", owner),
    ]
    _, *cases = rows(manager, "cases", filters())
    assert ("norms", f"a-{name}-1024x768-bfloat16") in cases
    assert not [case for _, case in cases if case.startswith("b-")]


def test_integer_methods_say_their_models(manager: Manager) -> None:
    method = IntegerMethod(
        name="n", convert=lambda *_: None, default=True, default_models=("m", "o"),  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    manager.integer_methods.register(method, Owner("test"))
    _, *body = rows(manager, "integers", filters())
    assert body == [("n", "yes", "m, o", "", str(Owner("test")))]
    assert ("integers", "m-n") in rows(manager, "cases", filters())


@pytest.mark.parametrize("axis", ["models", "formats", "modes", "policies"])
def test_filter_without_match_is_an_error(manager: Manager, axis: str) -> None:
    with pytest.raises(NameNotFoundError, match="zzz"):
        rows(manager, axis, filters(**{axis: "zzz"}))
