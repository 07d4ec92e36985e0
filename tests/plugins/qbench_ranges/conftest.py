"""What the tests of range rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import Quantizer
from qbench_suite.scaling.compiling import eager


@pytest.fixture(autouse=True)
def _eager_and_seeded() -> Iterator[None]:
    """Compiled kernels give the same bits, after seconds of compiling."""
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield


@pytest.fixture(scope="session")
def quantizer() -> Callable[[str], Quantizer]:
    """``quantizer("int8-channel")`` of shipped formats and modes."""
    formats = {format.name: format for format in FORMATS}
    modes = {mode.name: mode for mode in MODES}

    def build(name: str) -> Quantizer:
        format, mode = name.split("-")
        return Quantizer(formats[format], modes[mode])

    return build
