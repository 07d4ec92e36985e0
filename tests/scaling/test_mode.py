"""Mode: which formats run in it, and why others do not."""

from __future__ import annotations

import pytest

from qbench_formats import FORMATS
from qbench_suite import AbsMax, Mode, ModeError, PerChannel, PerChunk, PerTensor, PowerOfTwo

BY_NAME = {f.name: f for f in FORMATS}
TENSOR = Mode(name="tensor", granularity=PerTensor())
CHANNEL = Mode(name="channel", granularity=PerChannel())
MX = Mode(name="mx32", granularity=PerChunk(32), rule=PowerOfTwo())


def test_a_granularity_is_enough_for_a_mode() -> None:
    assert isinstance(TENSOR.rule, AbsMax)
    assert (TENSOR.description, TENSOR.default) == ("", False)


@pytest.mark.parametrize(
    ("format", "mode", "reason"),
    [
        ("e8m0", TENSOR, "e8m0 is a format for scales, not for elements"),
        ("bf16", CHANNEL, "bf16 is used without a scale, so it runs in mode tensor only"),
        ("fp32", MX, "fp32 is used without a scale"),
        ("uint8", MX, "uint8 has a zero point, which the scale rule of mx32 has not"),
    ],
)
def test_a_misfit_says_why(format: str, mode: Mode, reason: str) -> None:
    assert reason in mode.misfit(BY_NAME[format])
    with pytest.raises(ModeError, match=f"{reason}.*Choose another mode or format"):
        mode.check(BY_NAME[format])


@pytest.mark.parametrize("mode", [TENSOR, CHANNEL, MX], ids=lambda mode: mode.name)
def test_ordinary_formats_run_in_every_mode(mode: Mode) -> None:
    for name in ("fp8_e4m3", "fp4_e3m0", "int8", "nf4"):
        assert mode.misfit(BY_NAME[name]) == ""
        mode.check(BY_NAME[name])
