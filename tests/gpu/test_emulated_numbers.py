"""Number types of the emulated device: every code, and what is rounded, as torch has it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from qbench_suite.gpu import SM_90, CudaSource
from qbench_suite.gpu.emulator import prebuild
from qbench_suite.native.compiler import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")

SOURCE = CudaSource(Path(__file__).with_name("emulated.cu"))
TYPES = {"__half": torch.float16, "__nv_bfloat16": torch.bfloat16}
KERNELS = ("codes", "arithmetic", *(f"{k}<{t}>" for k in ("round_to", "widen") for t in TYPES))


class Arguments(ctypes.Structure):
    """As in emulated.cu."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("count", ctypes.c_longlong),
        ("choice", ctypes.c_int),
        ("value", ctypes.c_int),
    )


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    prebuild((SOURCE.function(name) for name in KERNELS), SM_90)


def run(
    kernel: str, x: torch.Tensor, dtype: torch.dtype, choice: int = 0, value: int = 0
) -> torch.Tensor:
    """What the kernel makes of each element."""
    found = torch.empty(x.shape, dtype=dtype, device=x.device)
    plan = SOURCE.function(kernel).plan(grid=(1, 1, 1), block=(32, 1, 1), device=x.device)
    plan(Arguments(x.data_ptr(), found.data_ptr(), x.numel(), choice, value))
    return found.cpu()


def floats(count: int) -> torch.Tensor:
    """Floats of every magnitude, both signs, and the special ones; the bits of one in two are few."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator).int()
    bits[::2] &= ~0xFFF  # in between two numbers of a narrow type, or on one
    bits[:4] = torch.tensor([0, -(2**31), 0x7F800000, -0x800000], dtype=torch.int32)
    return bits.view(torch.float32)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether all bits agree, of numbers that are any."""
    assert torch.equal(found.isnan(), expected.isnan())
    numbers = ~expected.isnan()
    bits = torch.int16 if found.element_size() == 2 else torch.int32
    return torch.equal(found.view(bits)[numbers], expected.view(bits)[numbers])


@pytest.mark.parametrize("kind", TYPES)
def test_all_numbers_of_16_bits_are_widened(kind: str, device: torch.device) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(TYPES[kind])
    assert same(run(f"widen<{kind}>", every.to(device), torch.float32), every.float())


@pytest.mark.parametrize("kind", TYPES)
def test_floats_are_rounded_to_16_bits(kind: str, device: torch.device) -> None:
    x = floats(200_000)
    assert same(run(f"round_to<{kind}>", x.to(device), TYPES[kind]), x.to(TYPES[kind]))


@pytest.mark.parametrize(
    ("choice", "dtype"), [(0, torch.float8_e4m3fn), (1, torch.float8_e5m2)], ids=["e4m3", "e5m2"]
)
def test_codes_of_8_bits_saturate_and_round_as_the_format(
    choice: int, dtype: torch.dtype, device: torch.device
) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    numbers = every[every.isfinite()].unique()
    halfway = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([numbers, halfway, halfway.nextafter(numbers[1:]), floats(200_000)])
    x = near[: near.numel() // 4 * 4].contiguous()
    most = torch.finfo(dtype).max
    expected = x.clamp(-most, most).to(dtype)
    found = run("codes", x.to(device), torch.uint8, choice).view(dtype)
    numbers = ~x.isnan()
    assert found[~numbers].float().isnan().all()
    assert torch.equal(found.view(torch.uint8)[numbers], expected.view(torch.uint8)[numbers])


def test_int8_rounds_to_even_and_keeps_its_sign_symmetric(device: torch.device) -> None:
    x = torch.cat([torch.arange(-600, 601) / 4, floats(10_000)[: 10_000 - 1]])
    x = x[: x.numel() // 4 * 4].contiguous()
    expected = x.round().clamp(-127, 127).nan_to_num(0).to(torch.int8)
    assert torch.equal(run("codes", x.to(device), torch.int8, 2), expected)


def test_reciprocal_roots_are_correctly_rounded(device: torch.device) -> None:
    x = floats(200_000).abs()
    x = x[x > 0].contiguous()
    expected = x.double().rsqrt().float()
    assert same(run("arithmetic", x.to(device), torch.float32, 0), expected)


def test_quotients_are_correctly_rounded(device: torch.device) -> None:
    x = floats(100_000)
    expected = (x.double() / 7).float()
    assert same(run("arithmetic", x.to(device), torch.float32, 1, 7), expected)


def test_named_operations_are_not_contracted(device: torch.device) -> None:
    x = torch.rand(100_000, generator=torch.Generator().manual_seed(2))
    expected = x * x - x
    fused = (x.double() * x.double() - x.double()).float()
    assert not torch.equal(expected, fused)
    assert same(run("arithmetic", x.to(device), torch.float32, 2), expected)
