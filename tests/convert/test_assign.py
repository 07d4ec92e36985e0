"""Assignment: scope, precedence, exclusion, reasons, and patterns that match nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench_suite.convert.assign import Assignment, assign
from qbench_suite.convert.policy import Policy, read_policy
from qbench_suite.convert.sites import Site, Survey
from qbench_suite.errors import PolicyError
from qbench_suite.layers import QuantFunction, Role
from qbench_suite.manager import Manager, default_manager
from qbench_suite.scaling import Quantizer


class Sum(QuantFunction):
    """A function twin; what it computes is of no interest here."""

    roles: ClassVar[tuple[Role, ...]] = (Role.INPUT,)

    def call(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        return torch.zeros(())


class Product(Sum):
    roles = (Role.WEIGHT, Role.INPUT)
    optional_roles = (Role.OUTPUT,)


class Norm(Sum):
    roles = (Role.WEIGHT, Role.INPUT)
    optional_roles = (Role.OUTPUT, Role.STATISTICS)


class Curve(Sum):
    roles = (Role.INPUT, Role.ACT)


def site(name: str, type: str, twin: Any, adds: int = 0) -> Site:
    reason = "" if twin else "no registered layer replaces it"
    return Site(name, "module", type, twin, reason, 0, adds, 8 if twin else 0)


SITES = (
    site("stem", "Conv2d", Product, 100),
    site("bn", "BatchNorm2d", Norm),
    site("act", "ReLU", Curve),
    site("blocks.0.fc", "Linear", Product, 50),
    site("blocks.0:add", "add", Sum),
    site("blocks.1.fc", "Linear", Product, 50),
    site("odd", "Odd", None),
    site("head", "Linear", Product, 10),
)
SURVEY = Survey(SITES, "stem", "head", "generic", 210)


@pytest.fixture(scope="module")
def manager() -> Manager:
    return default_manager()


def given_by(manager: Manager, **keys: Any) -> dict[str, Assignment]:
    policy = Policy.model_validate(keys)
    assignments = assign(policy, SURVEY, manager)
    assert [a.site for a in assignments] == list(SITES)
    assert all(bool(a.quantizers) != bool(a.reason) for a in assignments)
    return {a.site.name: a for a in assignments}


def said(assignment: Assignment) -> dict[str, str]:
    return {str(role): str(quantizer) for role, quantizer in assignment.quantizers.items()}


def test_by_default_what_multiplies_and_adds_is_in_scope(manager: Manager) -> None:
    found = given_by(manager, format="int8", mode="channel")
    both = {"weight": "int8-channel", "input": "int8-channel"}
    products = {"stem", "blocks.0.fc", "blocks.1.fc", "head"}
    assert {name for name, a in found.items() if a.quantizers} == products
    assert all(said(found[name]) == both for name in products)
    assert found["bn"].reason == "outside the policy's scope: multiply_add"
    assert found["odd"].reason == "no registered layer replaces it"


def test_scope_all_reaches_everything_with_a_twin(manager: Manager) -> None:
    found = given_by(manager, scope="all", format="int8", output_format="same")
    assert said(found["bn"]) == dict.fromkeys(("weight", "input", "output"), "int8-tensor")
    assert said(found["act"]) == said(found["blocks.0:add"]) == {"input": "int8-tensor"}
    assert not found["odd"].quantizers


def test_an_act_format_reaches_activation_functions_for_that_role(manager: Manager) -> None:
    found = given_by(manager, format="int8", act_format="same", act_mode="channel")
    assert said(found["act"]) == {"act": "int8-channel"}
    assert said(found["stem"]) == {"weight": "int8-tensor", "input": "int8-tensor"}
    assert not found["bn"].quantizers
    assert not given_by(manager, format="int8", act_format="none")["act"].quantizers


def test_an_entry_that_names_a_site_brings_it_into_scope(manager: Manager) -> None:
    found = given_by(
        manager, format="int8", types={"add": "same"}, layers={"b?": {"statistics_format": "int8"}}
    )
    assert said(found["blocks.0:add"]) == {"input": "int8-tensor"}
    assert set(found["bn"].quantizers) == {Role.WEIGHT, Role.INPUT, Role.STATISTICS}


def test_a_pattern_that_matches_what_is_in_scope_brings_nothing_else_there(
    manager: Manager,
) -> None:
    keys: dict[str, Any] = {"layers": {"*": {"weight_format": "int4"}}}
    found = given_by(manager, format="int8", types={"*": {"mode": "channel"}}, **keys)
    assert not found["bn"].quantizers
    assert not found["blocks.0:add"].quantizers
    assert said(found["stem"]) == {"weight": "int4-channel", "input": "int8-channel"}
    assert found["bn"].reason == "outside the policy's scope: multiply_add"


def test_later_entries_win_and_exclude_has_the_last_word(manager: Manager) -> None:
    found = given_by(
        manager,
        format="int8",
        types={"*": {"mode": "channel"}, "Linear": {"format": "int4"}},
        layers={"blocks.*": {"format": "fp8_e4m3"}, "blocks.1.*": {"input_format": "none"}},
        first_layer={"weight_format": "fp16", "mode": "tensor"},
        last_layer="none",
        exclude=["blocks.0*"],
    )
    assert said(found["stem"]) == {"weight": "fp16-tensor", "input": "int8-tensor"}
    assert said(found["blocks.1.fc"]) == {"weight": "fp8_e4m3-channel"}
    assert found["blocks.0.fc"].reason == "excluded by the policy: blocks.0*"
    assert found["blocks.0:add"].reason == "excluded by the policy: blocks.0*"
    assert found["head"].reason == "left float by the policy: last_layer"
    assert found["act"].reason == "outside the policy's scope: multiply_add"


@pytest.mark.parametrize(
    ("keys", "name", "reason"),
    [
        ({"layers": {"head": "none"}}, "head", "left float by the policy: layers: head"),
        ({"types": {"Lin*": "none"}}, "head", "left float by the policy: types: Lin*"),
        ({"first_layer": "none"}, "stem", "left float by the policy: first_layer"),
        (
            {"format": "none"},
            "stem",
            "the policy has no format for its roles: weight, input, output",
        ),
        ({"input_format": "none", "scope": "all"}, "act", "no format for its roles: input, act"),
    ],
)
def test_a_float_site_says_why(manager: Manager, keys: Any, name: str, reason: str) -> None:
    assert reason in given_by(manager, **{"format": "int8", **keys})[name].reason


def test_the_last_layer_is_both_heads_of_a_distilled_model(manager: Manager) -> None:
    survey = replace(SURVEY, stem=("stem",), classifier=("blocks.1.fc", "head"))
    policy = Policy.model_validate({"format": "int8", "last_layer": "none", "first_layer": "none"})
    floats = {a.site.name for a in assign(policy, survey, manager) if "_layer" in a.reason}
    assert floats == {"stem", "blocks.1.fc", "head"}


def test_an_entry_may_take_a_none_back(manager: Manager) -> None:
    layers = {"blocks.*": "none", "blocks.1.*": {"format": "int4"}}
    found = given_by(manager, format="int8", layers=layers)
    assert said(found["blocks.1.fc"]) == {"weight": "int4-tensor", "input": "int4-tensor"}
    assert found["blocks.0.fc"].reason == "left float by the policy: layers: blocks.*"


def test_a_range_rule_goes_into_the_quantizer(manager: Manager) -> None:
    found = given_by(manager, format="int8", weight_range="mse", input_range="absmax")
    weight, input = (found["stem"].quantizers[role] for role in (Role.WEIGHT, Role.INPUT))
    assert weight.range_rule is manager.range_rules.get("mse")
    assert input.range_rule is None
    assert input == Quantizer(manager.formats.get("int8"), manager.modes.get("tensor"))


def test_the_seed_goes_into_the_quantizers(manager: Manager) -> None:
    policy = Policy(format="int8+stochastic")
    quantizers = assign(policy, SURVEY, manager, seed=7)[0].quantizers
    assert {q.seed for q in quantizers.values()} == {7}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("format: int8\nlayers:\n  block.0.fc: none\n", 3, "did you mean blocks.0.fc"),
        ("format: int8\nlayers:\n  'zzz*': none\n", 3, "`qbench policy show` lists them"),
        ("format: int8\nexclude:\n  - head\n  - heads\n", 4, "got 'heads', which matches none"),
        ("format: int8\ntypes:\n  Liner: none\n", 3, "did you mean Linear"),
        ("format: int8\nlayers:\n  head: {act_format: same}\n", 3, "act_format for head (Linear)"),
        (
            "format: int8\nlayers:\n  '*fc': {act_mode: channel}\n",
            3,
            "blocks.0.fc (Linear) and 1 more",
        ),
        ("format: int8\nlayers:\n  odd: {weight_format: int4}\n", 3, "none: no layer replaces it"),
        ("format: int8\nlast_layer:\n  act_format: same\n", 3, "drop act_format"),
        # Each fits by itself; laid over one another for one site they do not.
        (
            "format: int8\ntypes: {Linear: {mode: mx32}}\nlayers:\n  head: {format: bf16}\n",
            4,
            "bf16",
        ),
        ("format: int9\n", 1, "did you mean int8"),
        ("format: int8\ntypes:\n  linear: none\n", 3, "matches none; did you mean Linear?"),
        ("format: int8\ntypes:\n  'conv*': none\n", 3, "matches none; did you mean Conv2d?"),
        (
            "format: int8\ntypes:\n  LayerNorm:\n    format: none\n",
            3,
            "`qbench policy show` lists them; optional: true in the entry lets it match nothing.",
        ),
        # A type that no registered layer is of is a slip of the pen, optional or not.
        (
            "format: int8\ntypes:\n  Zzz: {mode: channel, optional: true}\n",
            3,
            "got 'Zzz', which matches none; `qbench policy show` lists them.",
        ),
        (
            "format: int8\nexclude: [head]\nlast_layer:\n  format: int4\n",
            3,
            "got last_layer for head (Linear), excluded by head; drop one of the two.",
        ),
        (
            "format: int8\nexclude: ['head*']\nlayers:\n  head: {format: int4}\n",
            4,
            "got layers: head for head (Linear), excluded by head*",
        ),
        (
            "format: int8\nexclude: ['*fc', head]\ntypes:\n  Linear: same\n",
            4,
            "types: Linear for blocks.0.fc (Linear) and 2 more, excluded by *fc, head",
        ),
    ],
)
def test_a_policy_that_does_not_fit_the_model(
    tmp_path: Path, manager: Manager, text: str, line: int, message: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        assign(read_policy(path), SURVEY, manager)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


def test_a_role_needs_one_of_the_matched_sites_only(manager: Manager) -> None:
    found = given_by(manager, format="int8", layers={"*": {"act_format": "same"}})
    assert Role.ACT in found["act"].quantizers
    assert Role.ACT not in found["head"].quantizers


def test_an_optional_entry_may_match_nothing(manager: Manager) -> None:
    plain = given_by(manager, format="int8")
    entry = {"format": "int4", "optional": True}
    types = {"LayerNorm": entry, "gelu": entry}
    assert given_by(manager, format="int8", types=types, layers={"trunk.*": entry}) == plain
    found = given_by(manager, format="int8", types={"Linear": entry})
    assert said(found["head"]) == dict.fromkeys(("weight", "input"), "int4-tensor")


@pytest.mark.parametrize(
    "keys",
    [
        {"exclude": ["head"], "last_layer": "none"},
        {"exclude": ["head*"], "layers": {"head": "none"}},
        {"exclude": ["head"], "last_layer": "same"},
        {"exclude": ["blocks.0.fc"], "layers": {"blocks.*": {"format": "int4"}}},
        {"exclude": ["head"], "layers": {"hea*": {"format": "int4", "optional": True}}},
    ],
)
def test_an_exclusion_that_agrees_with_an_entry_is_no_mistake(manager: Manager, keys: Any) -> None:
    found = given_by(manager, format="int8", **keys)
    assert "excluded by the policy" in found[keys["exclude"][0].rstrip("*")].reason


class Mixer(Sum):
    """A twin that calls a function within itself."""

    roles = (Role.INPUT, Role.ACT)

    def call(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        return torch.zeros(2).softmax(0)


def test_a_function_within_a_twin_is_named_with_its_type(manager: Manager) -> None:
    survey = replace(SURVEY, sites=(*SITES, site("mixer", "Mixer", Mixer, 10)))
    policy = Policy.model_validate({"format": "int8", "types": {"softmax": {"act_format": "int8"}}})
    with pytest.raises(PolicyError, match="softmax is computed within Mixer here: write the entry"):
        assign(policy, survey, manager)
    with pytest.raises(PolicyError, match="optional: true"):
        assign(policy, SURVEY, manager)


PATTERNS = st.sampled_from(["*", "blocks.*", "*.fc", "head", "stem", "bn", "blocks.0*"])
CHOICES = st.one_of(
    st.sampled_from(["none", "same"]),
    st.fixed_dictionaries({}, optional={"format": st.sampled_from(["int8", "int4", "none"])}),
)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["Linear", "*", "B*"]), CHOICES, max_size=2),
    st.dictionaries(PATTERNS, CHOICES, max_size=3),
    st.sets(PATTERNS, max_size=2),
    st.sampled_from(["same", "none", {"format": "int3"}]),
    st.sampled_from(["multiply_add", "all"]),
)
def test_the_weight_format_is_what_the_manual_says(
    types: Any, layers: Any, exclude: set[str], first: Any, scope: Any
) -> None:
    """An oracle of the precedence for the format of weights, written without the code's structure."""
    manager = _MANAGER
    excluded = sorted(exclude - set(layers))
    keys = {"types": types, "layers": layers, "exclude": excluded, "first_layer": first}
    sections = [
        *(([s for s in SITES if fnmatchcase(s.type, p)], c) for p, c in types.items()),
        *(([s for s in SITES if fnmatchcase(s.name, p)], c) for p, c in layers.items()),
        *([([SITES[0]], first)] if first != "same" else []),
    ]
    if any(
        all(any(fnmatchcase(s.name, p) for p in excluded) for s in sites if s.twin)
        and choice not in ("none", {"format": "none"})
        for sites, choice in sections
    ):
        with pytest.raises(PolicyError, match="excluded or has settings, not both"):
            given_by(manager, format="fp8_e4m3", scope=scope, **keys)
        return
    found = given_by(manager, format="fp8_e4m3", scope=scope, **keys)

    def matches(pattern: str, attribute: str) -> list[Site]:
        return [s for s in SITES if fnmatchcase(getattr(s, attribute), pattern)]

    def names(pattern: str, attribute: str) -> bool:
        some_in_scope = any(s.adds and s.twin for s in matches(pattern, attribute))
        return not (set(pattern) & set("*?[") and some_in_scope)

    def concerning(s: Site) -> list[tuple[str, str]]:
        patterns = [*((p, "type") for p in types), *((p, "name") for p in layers)]
        return [(p, a) for p, a in patterns if s in matches(p, a)]

    for s in SITES:
        matching = [
            *(c for p, c in types.items() if fnmatchcase(s.type, p)),
            *(c for p, c in layers.items() if fnmatchcase(s.name, p)),
        ]
        reached = scope == "all" or s.adds or any(names(p, c) for p, c in concerning(s))
        if s.name == "stem":
            matching.append(first)
        says = [
            "none" if c == "none" else c["format"] for c in matching if c == "none" or "format" in c
        ]
        expected = ["fp8_e4m3", *says][-1]
        if any(fnmatchcase(s.name, p) for p in excluded) or not reached:
            expected = "none"
        if s.twin is None or Role.WEIGHT not in s.twin.roles:
            expected = "none"
        weight = found[s.name].quantizers.get(Role.WEIGHT)
        assert (weight.format.name if weight else "none") == expected


_MANAGER = default_manager()


def test_every_shipped_policy_fits_the_made_up_model(manager: Manager) -> None:
    for entry in manager.policies:
        assignments = assign(read_policy(entry.path), SURVEY, manager)
        used = {q.format.name for a in assignments for q in a.quantizers.values()}
        assert used == set(read_policy(entry.path).formats)


def test_scopes_and_roles_by_brute_force(manager: Manager) -> None:
    """Every subset of role formats: exactly the roles given and had are quantized."""
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(Role, n) for n in range(1, 6)
    ):
        found = given_by(manager, scope="all", **{f"{role}_format": "int8" for role in chosen})
        for s in SITES:
            had = () if s.twin is None else (*s.twin.roles, *s.twin.optional_roles)
            assert set(found[s.name].quantizers) == set(chosen) & set(had)
