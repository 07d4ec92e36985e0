"""What the tests of compliance share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qbench_suite.scaling.compiling import eager


@pytest.fixture(autouse=True)
def _eager_and_seeded() -> Iterator[None]:
    """Compiled kernels give the same bits, after seconds of compiling."""
    torch.manual_seed(0)
    with eager(), torch.no_grad():
        yield
