"""Where kernels run: the emulator, and the GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qbench_suite import SM_90, cuda_unavailable, emulating


@pytest.fixture(params=["emulator", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """An emulated sm_90 on the CPU, or the CUDA device; skips, with the reason, where it is not there."""
    if request.param == "cuda":
        if (
            reason := cuda_unavailable(torch.device("cuda"))
            if torch.cuda.is_available()
            else "no GPU"
        ):
            pytest.skip(reason)
        yield torch.device("cuda")
        return
    with emulating(SM_90):
        if reason := cuda_unavailable(torch.device("cpu")):
            pytest.skip(reason)
        yield torch.device("cpu")
