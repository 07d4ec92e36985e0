"""Registries: unique names whatever the order, families, and errors that help."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench_suite import DuplicateNameError, Family, NameNotFoundError
from qbench_suite.registry import Owner, Registry, near_misses

OURS = Owner("plugin_a", "dist-a", "1.0")
THEIRS = Owner("plugin_b", "dist-b", "2.1")


@dataclass(frozen=True)
class Entry:
    """The least that a registry holds."""

    name: str


def chunks() -> Family[Entry]:
    return Family("chunk<N>", r"chunk(?P<size>\d+)", lambda match: Entry(match[0]))


def registry(*names: str) -> Registry[Entry]:
    made: Registry[Entry] = Registry("mode")
    for name in names:
        made.register(Entry(name), OURS)
    return made


@given(st.permutations(["tensor", "channel", "token", "block128x128"]))
def test_names_come_sorted_whatever_the_order_of_registration(names: list[str]) -> None:
    made = registry(*names)
    assert made.names() == sorted(names)
    assert [entry.name for entry in made] == sorted(names)
    assert len(made) == 4


def test_owner_is_written_with_distribution_and_version() -> None:
    assert str(OURS) == "plugin_a (dist-a 1.0)"
    assert str(Owner("my_format.py")) == "my_format.py (local)"


def test_duplicate_is_refused_and_names_both_owners() -> None:
    made = registry("tensor")
    with pytest.raises(DuplicateNameError) as caught:
        made.register(Entry("tensor"), THEIRS)
    for part in (str(OURS), str(THEIRS), "'tensor'", "--qbench-disable-plugin plugin_b"):
        assert part in str(caught.value)
    assert made.owner("tensor") == OURS


def test_duplicate_within_one_plugin_is_refused_too() -> None:
    with pytest.raises(DuplicateNameError):
        registry("tensor", "tensor")


def test_family_makes_members_when_asked() -> None:
    made = registry("tensor")
    made.register(chunks(), THEIRS)
    assert made.get("chunk48") == Entry("chunk48")
    assert "chunk48" in made
    assert "chunk48x" not in made, "the whole name must match"
    assert made.owner("chunk48") == THEIRS
    assert made.owner("chunk<N>") == THEIRS
    assert made.names() == ["tensor"]
    assert made.families() == ["chunk<N>"]


def test_entry_proper_outranks_the_family_of_its_own_plugin() -> None:
    made = registry()
    made.register(chunks(), OURS)
    proper = Entry("chunk128")
    made.register(proper, OURS)
    assert made.get("chunk128") is proper


@pytest.mark.parametrize("family_first", [True, False])
def test_entry_in_the_family_of_another_plugin_is_refused(family_first: bool) -> None:
    made = registry()
    pairs: list[tuple[Any, Owner]] = [(chunks(), OURS), (Entry("chunk48"), THEIRS)]
    first, second = pairs if family_first else reversed(pairs)
    made.register(*first)
    with pytest.raises(DuplicateNameError) as caught:
        made.register(*second)
    assert str(OURS) in str(caught.value)
    assert str(THEIRS) in str(caught.value)


def test_two_families_that_overlap_answer_alike_in_either_order() -> None:
    families = [
        Family("a<N>", r"\w+(\d+)", lambda match: Entry(f"a of {match[0]}")),
        Family("b<N>", r"x(\d+)", lambda match: Entry(f"b of {match[0]}")),
    ]
    answers = set()
    for order in itertools.permutations(families):
        made: Registry[Entry] = Registry("mode")
        for family in order:
            made.register(family, OURS)
        answers.add(made.get("x1").name)
    assert answers == {"a of x1"}


def test_family_says_whose_a_member_is() -> None:
    made = registry("int8")
    pattern = r"(?P<base>.+)\+away"
    make, owner = (lambda match: made.get(match["base"])), (lambda match: made.owner(match["base"]))
    made.register(Family("<format>+away", pattern, make, owner), THEIRS)
    assert made.owner("int8+away") == OURS
    assert made.owner("<format>+away") == THEIRS
    with pytest.raises(NameNotFoundError, match="int8"):
        made.owner("int7+away")


@pytest.mark.parametrize(
    ("asked", "offered"),
    [("fp8_e4m4", "fp8_e4m3"), ("FP8_E4M3", "fp8_e4m3"), ("chunk", "chunk<N>"), ("int", "int8")],
)
def test_unknown_name_is_answered_with_near_ones(asked: str, offered: str) -> None:
    made = registry("fp8_e4m3", "fp8_e5m2", "int8", "int4")
    made.register(chunks(), OURS)
    for ask in (made.get, made.owner, made.select):
        if asked.lower() == asked or ask != made.select:
            with pytest.raises(NameNotFoundError, match=re.escape(repr(asked))) as caught:
                ask(asked)
            if asked.lower() == asked:
                assert offered in str(caught.value)


def test_name_unlike_all_others_is_answered_with_all_of_them() -> None:
    with pytest.raises(NameNotFoundError, match=r"Known: int4, int8\."):
        registry("int8", "int4").get("zzz")
    with pytest.raises(NameNotFoundError, match="none; is the plugin installed"):
        registry().get("zzz")


def test_near_misses_are_at_most_three() -> None:
    assert near_misses("int1", [f"int{n}" for n in range(2, 9)]).count("int") == 3


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ("fp8*", ["fp8_e4m3", "fp8_e5m2"]),
        ("int8,fp8*", ["int8", "fp8_e4m3", "fp8_e5m2"]),
        (" int8 , ,int8,", ["int8"]),
        ("chunk48,int8", ["chunk48", "int8"]),
        ("*", ["fp8_e4m3", "fp8_e5m2", "int8"]),
        ("fp8_e[45]m?", ["fp8_e4m3", "fp8_e5m2"]),
        ("", []),
    ],
)
def test_select_takes_a_comma_list_of_globs(patterns: str, chosen: list[str]) -> None:
    made = registry("int8", "fp8_e5m2", "fp8_e4m3")
    made.register(chunks(), OURS)
    assert made.select(patterns) == chosen


def test_one_pattern_without_match_is_refused_though_others_match() -> None:
    with pytest.raises(NameNotFoundError, match=r"fp9\*"):
        registry("int8").select("int8,fp9*")
