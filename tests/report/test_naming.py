"""Short names: as short as tells models apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench_suite.report.naming import short_names


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["vit", "resnet"], ["vit", "resnet"]),
        (["timm:vit@a/b/best.pth"], ["timm:vit"]),
        (["timm:vit@a/one.pth", "timm:vit@a/two.pth"], ["timm:vit@one", "timm:vit@two"]),
        (["timm:vit", "timm:vit@a/one.pth"], ["timm:vit", "timm:vit@one"]),
        (["timm:vit@a/x.pth", "timm:vit@b/x.pth"], ["timm:vit@a/x.pth", "timm:vit@b/x.pth"]),
        (["some/where/resnet18.pth"], ["resnet18"]),
    ],
)
def test_a_name_is_as_short_as_tells_it_apart(names: list[str], short: list[str]) -> None:
    assert short_names(names) == dict(zip(names, short, strict=True))


@given(st.lists(st.text("ab@/.", max_size=8), unique=True))
def test_short_names_are_as_many_as_names(names: list[str]) -> None:
    short = short_names(names)
    assert set(short) == set(names)
    assert len(set(short.values())) == len(names)
