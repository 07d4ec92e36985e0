"""What the tests of the integer operators share: every way to run one, and values of all kinds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench_fqvit import ops
from qbench_fqvit.ops import eager, native

KINDS = ("random", "lowest", "highest", "zero", "constant rows", "sparse")


class Values:
    """Integer tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def between(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Uniform over ``low`` … ``high``, both included."""
        return torch.randint(low, high + 1, shape, generator=self._generator).to(dtype)

    def codes(self, kind: str, *shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
        """Codes of one of ``KINDS``."""
        info = torch.iinfo(dtype)
        drawn = self.between(info.min, info.max, *shape, dtype=dtype)
        if kind == "lowest":
            return torch.full_like(drawn, info.min)
        if kind == "highest":
            return torch.full_like(drawn, info.max)
        if kind == "zero":
            return torch.zeros_like(drawn)
        if kind == "constant rows":
            return drawn[..., :1].expand(shape).clone()
        if kind == "sparse":
            return drawn * self.between(0, 9, *shape, dtype=dtype).eq(0)
        return drawn

    def factors(self, *shape: int, low: int = 33, high: int = 45) -> tuple[Tensor, Tensor]:
        """Multipliers of either sign and shifts."""
        multiplier = self.between(-(2**31), 2**31 - 1, *shape)
        return multiplier, self.between(low, high, *shape, dtype=torch.int8)


def exp_table(scale: float = 0.08, bits: int = 22) -> Tensor:
    """``round(2^bits exp(-d scale))``."""
    return torch.from_numpy(np.round(2.0**bits * np.exp(-scale * np.arange(256)))).to(torch.int32)


def _implementations() -> dict[str, Any]:
    built = {"C++": native.kernels()}
    if platform.machine() in ("x86_64", "AMD64"):
        built["portable C++"] = native.kernels("x86-64")
        if torch.cpu._is_vnni_supported():
            built["C++ without VBMI"] = native.kernels("cascadelake")
    return {"eager": eager, **{name: each for name, each in built.items() if each is not None}}


@pytest.fixture
def values() -> type[Values]:
    """Values(seed)."""
    return Values


@pytest.fixture(scope="session")
def table() -> Callable[..., Tensor]:
    """table(scale, bits) of exponentials."""
    return exp_table


@pytest.fixture(scope="session")
def agree() -> Callable[..., Tensor]:
    """``agree(name, *operands)``: the oracle's result, if every implementation gives its bits."""
    implementations = _implementations()

    def check(name: str, *operands: Any) -> Tensor:
        arrays = [x.numpy() if isinstance(x, Tensor) else x for x in operands]
        expected = getattr(ops.reference, name)(*arrays)
        runs = {"operator": getattr(ops, name)}
        runs |= {label: getattr(where, name) for label, where in implementations.items()}
        for label, run in runs.items():
            got = run(*operands)
            assert got.numpy().dtype == expected.dtype, label
            assert got.is_contiguous() or label == "eager"
            np.testing.assert_array_equal(got.numpy(), expected, err_msg=label)
        return torch.from_numpy(expected)

    return check


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Both numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
