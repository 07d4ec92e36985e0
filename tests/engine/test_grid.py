"""The grid: ids that last, order, selection, and misfits left out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qbench_suite import (
    CodebookFormat,
    Manager,
    Mode,
    ModelError,
    NameNotFoundError,
    PerTensor,
    SelectionError,
)
from qbench_suite.engine import FormatCase, LayerCase, QuantizerCase, Selection
from qbench_suite.engine.grid import (
    DISTRIBUTIONS,
    case_id,
    format_cases,
    layer_cases,
    model_cases,
    quantizer_cases,
)
from qbench_suite.engine.pool import ModelPool
from qbench_suite.policies import PolicyEntry
from qbench_suite.registry import Owner

MakeManager = Callable[..., Manager]


def tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Tanh())


def cases_of(manager: Manager, **chosen: str) -> list[LayerCase]:
    return layer_cases(
        Selection(**chosen), manager, ModelPool(manager, 1 << 20, torch.device("cpu"))
    )


def test_id_is_model_format_mode_layer() -> None:
    case = LayerCase("timm:vit/tiny", "fp8", "chunk4", "blocks.0-a.fc1")
    assert case.id == "timm.vit.tiny-fp8-chunk4-blocks.0.a.fc1"
    assert case.key == f"layers/{case.id}"
    assert FormatCase("fp8+spec", "normal").key == "formats/fp8+spec-normal"
    assert QuantizerCase("fp8", "mx32").key == "quantizers/fp8-mx32"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_ids_are_made_of_few_characters_and_split_into_their_parts(parts: list[str]) -> None:
    made = case_id(*parts)
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", made)
    assert len(made.split("-")) == len(parts)


def test_grid_is_every_layer_in_every_pair_that_fits(make_manager: MakeManager) -> None:
    cases = cases_of(make_manager({"b": tiny, "a": tiny}))
    pairs = {(c.format, c.mode) for c in cases}
    assert pairs == {
        ("bf16", "tensor"),
        *((f, m) for f in ("fp8", "int8") for m in ("tensor", "chunk4")),
    }
    assert len(cases) == 2 * len(pairs) * 2
    assert {c.layer for c in cases} == {"1", "2"}


def test_cases_are_sorted_and_unique(make_manager: MakeManager) -> None:
    manager = make_manager({"b": tiny, "a": tiny})
    for cases in (
        cases_of(manager),
        format_cases(Selection(), manager),
        quantizer_cases(Selection(), manager),
    ):
        assert cases == sorted(cases)
        assert len({case.id for case in cases}) == len(cases)


def test_policies_of_one_file_name_are_named_by_path(
    make_manager: MakeManager, tmp_path: Path
) -> None:
    manager = make_manager({"m": tiny})
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.yaml").write_text("format: int8\n")
    policies = f"{tmp_path}/a/x.yaml,{tmp_path}/b/x.yaml"
    with pytest.raises(SelectionError) as caught:
        model_cases(Selection(policies=policies), manager, lambda _: ("int8",))
    assert str(caught.value).startswith(
        f"A case id tells one case; m-x tells policy {tmp_path}/a/x.yaml and policy "
        f"{tmp_path}/b/x.yaml. Rename one"
    )


def test_ids_do_not_depend_on_other_plugins(make_manager: MakeManager) -> None:
    before = {case.id for case in cases_of(make_manager({"m": tiny}))}
    more = CodebookFormat(name="aaa", bits=1, values=(-1.0, 1.0))
    mode = Mode(name="aaa", granularity=PerTensor(), default=True)
    manager = make_manager({"m": tiny, "aaa": tiny}, formats=[more], modes=[mode])
    assert before < {case.id for case in cases_of(manager)}


def test_format_without_scale_runs_in_mode_tensor_only(make_manager: MakeManager) -> None:
    manager = make_manager({"m": tiny})
    assert {c.mode for c in cases_of(manager, formats="bf16")} == {"tensor"}
    with pytest.raises(SelectionError, match="bf16 is used without a scale"):
        cases_of(manager, formats="bf16", modes="chunk4")


def test_format_for_scales_is_no_format_of_layers(make_manager: MakeManager) -> None:
    manager = make_manager({"m": tiny})
    assert "scales" not in {c.format for c in cases_of(manager, formats="*")}
    assert "scales" not in {c.format for c in format_cases(Selection(), manager)}
    with pytest.raises(SelectionError, match="for scales, not for elements"):
        quantizer_cases(Selection(formats="scales"), manager)
    named = format_cases(Selection(formats="scales"), manager)
    assert [c.distribution for c in named] == sorted(DISTRIBUTIONS)


@pytest.mark.parametrize(
    ("layers", "chosen"), [("1", {"1"}), ("1,2", {"1", "2"}), ("[12]", {"1", "2"}), (" 2 ,", {"2"})]
)
def test_layers_are_chosen_by_pattern(
    make_manager: MakeManager, layers: str, chosen: set[str]
) -> None:
    assert {c.layer for c in cases_of(make_manager({"m": tiny}), layers=layers)} == chosen


def test_pattern_of_layers_need_match_in_one_model_only(make_manager: MakeManager) -> None:
    manager = make_manager({"m": tiny, "n": lambda: nn.Sequential(nn.ReLU())})
    assert {(c.model, c.layer) for c in cases_of(manager, layers="1,0")} == {("m", "1"), ("n", "0")}


def test_layer_pattern_without_match_is_answered_with_near_ones(
    make_manager: MakeManager,
) -> None:
    model = nn.Sequential()
    model.add_module("classifier", nn.Linear(48, 4))
    manager = make_manager({"m": lambda: model})
    with pytest.raises(NameNotFoundError, match=r"'clasifier' matches none\. .*classifier"):
        cases_of(manager, layers="clasifier")


@pytest.mark.parametrize(
    ("axis", "asked", "offered"),
    [("models", "mm1", "mm"), ("formats", "int9", "int8"), ("modes", "tensro", "tensor")],
)
def test_unknown_name_is_answered_with_near_ones(
    make_manager: MakeManager, axis: str, asked: str, offered: str
) -> None:
    with pytest.raises(NameNotFoundError, match=f"Did you mean {offered}"):
        cases_of(make_manager({"mm": tiny}), **{axis: asked})


def test_names_that_would_share_an_id_are_refused(make_manager: MakeManager) -> None:
    manager = make_manager({"a:b": tiny, "a.b": tiny})
    with pytest.raises(SelectionError, match=r"a\.b-bf16-tensor-1 tells"):
        cases_of(manager)
    assert cases_of(manager, models="a:b")
    twins = [CodebookFormat(name=n, bits=1, values=(-1.0, 1.0)) for n in ("x:y", "x/y")]
    with pytest.raises(SelectionError, match=r"x\.y"):
        format_cases(Selection(), make_manager(formats=twins))
    with pytest.raises(SelectionError, match=r"x\.y"):
        quantizer_cases(Selection(), make_manager(formats=twins))


def test_model_that_cannot_be_built_is_named(make_manager: MakeManager) -> None:
    def bad() -> nn.Module:
        raise ValueError("weights are elsewhere")

    with pytest.raises(ModelError, match="'bad' of guest"):
        cases_of(make_manager({"m": tiny, "bad": bad}))
    assert cases_of(make_manager({"m": tiny, "bad": bad}), models="m")


def test_cases_of_a_model_follow_one_another() -> None:
    cases = [LayerCase(m, f, "tensor", "1") for m in "ab" for f in "xyz"]
    shuffled = random.Random(0).sample(cases, len(cases))
    assert sorted(shuffled) == cases


def formats_of(policy: str) -> tuple[str, ...]:
    return {"one": ("fp4",), "two": ("fp4", "fp8")}.get(policy, ())


@pytest.fixture
def policies(make_manager: MakeManager) -> Manager:
    manager = make_manager({"m": tiny, "n": tiny})
    for name, default in (("one", True), ("two", True), ("odd", False)):
        entry = PolicyEntry(name=name, path=Path(f"{name}.yaml"), default=default)
        manager.policies.register(entry, Owner("test"))
    return manager


def test_model_cases_are_every_default_policy_of_every_model(policies: Manager) -> None:
    cases = model_cases(Selection(models="m,n"), policies, formats_of)
    assert [case.id for case in cases] == ["m-one", "m-two", "n-one", "n-two"]
    assert [case.marks for case in cases] == [("fp4",), ("fp4", "fp8")] * 2
    assert cases[0].key == "models/m-one"


def test_id_of_a_policy_file_is_its_stem(policies: Manager) -> None:
    selection = Selection(models="m", policies="some/folder/my policy.yaml,x.yml,odd")
    cases = model_cases(selection, policies, formats_of)
    assert sorted(case.id for case in cases) == ["m-my.policy", "m-odd", "m-x"]


def test_two_policy_files_of_one_stem_are_refused(policies: Manager) -> None:
    with pytest.raises(SelectionError, match="Rename"):
        model_cases(Selection(models="m", policies="a/x.yaml,b/x.yaml"), policies, formats_of)


@pytest.mark.parametrize(
    ("options", "models", "layers"),
    [
        ({}, True, True),
        ({"models": "m"}, True, True),
        ({"formats": "f"}, True, True),
        ({"modes": "t"}, False, True),
        ({"layers": "l"}, False, True),
        ({"policies": "p"}, True, False),
        ({"policies": "p", "models": "m"}, True, False),
        ({"policies": "p", "modes": "t"}, True, True),
        ({"policies": "p", "formats": "f"}, True, True),
    ],
)
def test_a_selection_says_what_it_is_about(
    options: dict[str, str], models: bool, layers: bool
) -> None:
    selection = Selection(**options)
    assert selection.concerns("models") is models
    assert selection.concerns("layers") is layers
