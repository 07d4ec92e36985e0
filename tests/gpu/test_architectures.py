"""Architectures: what they are called, and what devices report."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from qbench_suite.errors import DeviceError
from qbench_suite.gpu import SM_75, SM_80, SM_90, SM_100, SM_120, Architecture, architecture_of


@pytest.mark.parametrize(
    ("architecture", "target", "cluster"),
    [
        (SM_75, "sm_75", 1),
        (SM_80, "sm_80", 1),
        (SM_90, "sm_90a", 16),
        (SM_100, "sm_100a", 16),
        (SM_120, "sm_120a", 8),
    ],
    ids=str,
)
def test_targets_and_clusters(architecture: Architecture, target: str, cluster: int) -> None:
    assert architecture.target == target
    assert architecture.max_cluster == cluster
    assert architecture.clusters == (cluster > 1)


def properties(major: int, minor: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        name="A GPU",
        major=major,
        minor=minor,
        multi_processor_count=132,
        shared_memory_per_block_optin=232_448,
        L2_cache_size=60 << 20,
    )


def test_a_device_says_what_it_is(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties(9, index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    found = architecture_of(torch.device("cuda", 0))
    assert found == Architecture(9, 0, 132, 232_448, 60 << 20)
    assert architecture_of(torch.device("cuda")).minor == 3
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 4)
    assert architecture_of(torch.device("cuda")).minor == 4


def test_a_device_that_is_too_old_is_refused(
    forgetful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties(7, 0))
    with pytest.raises(
        DeviceError, match=r"at least sm_75; cuda:0 \(A GPU\) is sm_70; use a newer"
    ):
        architecture_of(torch.device("cuda", 0))


def test_a_torch_for_rocm_is_refused(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties(9, 0))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(DeviceError, match=r"built for ROCm 6\.4; use a CUDA build"):
        architecture_of(torch.device("cuda", 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_torch_tells_all_that_is_asked_of_a_device() -> None:
    found = architecture_of(torch.device("cuda"))
    assert found.multiprocessors > 0
    assert found.shared_bytes >= 48 << 10
    assert found.l2_bytes > 0
