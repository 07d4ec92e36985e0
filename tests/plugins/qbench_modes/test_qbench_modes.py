"""The shipped modes, and the families of chunks and blocks of any size."""

from __future__ import annotations

import re

import pytest

from qbench_formats import FORMATS
from qbench_modes import MODES, block, chunk, qbench_register_modes
from qbench_suite import Family, Format, Mode, ModeError, PerBlock, PerChunk, PerTensor, Quantizer

BY_NAME = {m.name: m for m in MODES}


def made(name: str) -> Mode:
    """The member of a family called ``name``, made as the registry makes it."""
    registered: list[Mode | Family[Mode]] = []
    qbench_register_modes(registered.append)
    for entry in registered:
        if isinstance(entry, Family) and (match := re.fullmatch(entry.pattern, name)):
            return entry.make(match)
    raise LookupError(name)


def test_the_hook_registers_every_mode_and_two_families() -> None:
    registered: list[Mode | Family[Mode]] = []
    qbench_register_modes(registered.append)
    assert registered[: len(MODES)] == list(MODES)
    assert [entry.name for entry in registered[len(MODES) :]] == ["chunk<N>", "block<N>x<M>"]


def test_names_are_unique_described_and_fit_for_case_ids() -> None:
    assert len(BY_NAME) == len(MODES)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+]+", mode.name) for mode in MODES)
    assert all(mode.description for mode in MODES)
    assert {"tensor", "channel", "chunk128", "mx32"} <= {m.name for m in MODES if m.default}


@pytest.mark.parametrize("name", ["chunk128", "block128x128"])
def test_a_family_makes_the_same_mode_as_the_one_shipped(name: str) -> None:
    member, shipped = made(name), BY_NAME[name]
    assert (member.name, member.granularity, member.rule) == (
        shipped.name,
        shipped.granularity,
        shipped.rule,
    )


def test_families_take_any_size() -> None:
    assert made("chunk48").granularity == PerChunk(48)
    assert made("block2x300").granularity == PerBlock(2, 300)
    assert (chunk.__name__, block.__name__) == ("chunk", "block")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("chunk0", "chunk128"), ("block0x4", "block128x128"), ("block4x0", "block128x128")],
)
def test_empty_groups_are_refused_with_a_remedy(name: str, remedy: str) -> None:
    with pytest.raises(ModeError, match=rf"at least 1 element .*got 0.*Use for instance {remedy}"):
        made(name)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("format", FORMATS, ids=lambda entry: entry.name)
def test_every_format_runs_in_every_mode_it_fits(format: Format, mode: Mode) -> None:
    scaled = not (format.unit_scale or format.scale_only or format.affine)
    absmax = mode.name not in {"mx32", "mx32_rceil", "nv16"}
    fits = (
        scaled
        or (format.unit_scale and isinstance(mode.granularity, PerTensor))
        or (format.affine and absmax)
    )
    if fits:
        assert str(Quantizer(format, mode)) == f"{format.name}-{mode.name}"
    else:
        with pytest.raises(ModeError, match=f"{format.name}-{mode.name} does not"):
            Quantizer(format, mode)
