"""ByteCache: the bound, and who goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qbench_suite.engine.cache import ByteCache


def cache(limit: int) -> ByteCache[int]:
    return ByteCache(limit, lambda value: value)


def test_the_least_recently_used_goes_first() -> None:
    held = cache(10)
    for key in "abc":
        held.put(key, 3)
    assert held.get("a") == 3
    held.put("d", 3)
    assert "b" not in held
    assert all(key in held for key in "acd")


def test_asking_whether_a_key_is_held_does_not_use_it() -> None:
    held = cache(6)
    held.put("a", 3)
    held.put("b", 3)
    assert "a" in held
    held.put("c", 3)
    assert "a" not in held


def test_value_larger_than_the_bound_is_kept_alone() -> None:
    held = cache(5)
    held.put("small", 2)
    assert held.put("large", 50) == 50
    assert (len(held), held.used_bytes, held.get("small")) == (1, 50, None)
    held.put("small", 2)
    assert (len(held), held.used_bytes) == (1, 2)


def test_value_put_again_counts_once() -> None:
    held = cache(10)
    held.put("a", 8)
    held.put("a", 3)
    assert (len(held), held.used_bytes) == (1, 3)


def test_none_is_a_value() -> None:
    held: ByteCache[None] = ByteCache(0, lambda value: 0)
    held.put("never called", None)
    assert "never called" in held
    assert held.get("never called") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))), st.integers(0, 20))
def test_bound_holds_after_every_step(steps: list[tuple[int, int]], limit: int) -> None:
    held = cache(limit)
    for key, size in steps:
        held.put(key, size)
        assert held.get(key) == size, "what was put last is there"
        assert held.used_bytes <= limit or len(held) == 1
