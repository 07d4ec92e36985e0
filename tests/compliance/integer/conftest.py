"""Modules that compute in integers, and modules that hide a float in one place each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class Codes(nn.Module):
    """int8 → int8: an integer product, shifted and clamped; a float scale that nobody reads."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-5, 6, (4, 4), dtype=torch.int32, generator=generator)
        self.register_buffer("weight", weight)
        self.register_buffer("out_scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        product = x.int() @ self.weight
        return ((product + 2) >> 2).clamp(-128, 127).to(torch.int8)


class Outer(nn.Module):
    """``Codes``, and then what ``hides`` a float."""

    def __init__(self, hides: nn.Module) -> None:
        super().__init__()
        self.codes, self.hides = Codes(), hides

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.hides(self.codes(x))
        return found


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 0.5).to(torch.int8)


class RoundTrip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().to(torch.int8)


class Buffer(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).to(torch.int8)


class Hidden(nn.Module):
    """A float tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.tensor([3.0])

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.factor).to(torch.int8)


class RoundedQuotient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x / 3).to(torch.int8)


class TrueDivision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.div(x, torch.full_like(x, 7)).to(torch.int8)


class FloatArgument(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, 0.5).to(torch.int8)


class IntegerClampByFloats(nn.Module):
    """A Python float that leaves every tensor an integer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.empty_like(x).fill_(2.0) + x


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.softmax(-1, dtype=torch.float32) * 15).to(torch.int8)


class SquareRoot(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt().to(torch.int8)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.bfloat16) + 1).to(torch.int8)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x.float(), x.float()).real.to(torch.int8)


class FloatOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float16)


class PythonFloat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + int(float(x.sum()) / 3)


#: Each hides a float, by name.
HIDING = {
    kind.__name__: kind
    for kind in (
        Constant,
        RoundTrip,
        Buffer,
        Hidden,
        RoundedQuotient,
        TrueDivision,
        FloatArgument,
        IntegerClampByFloats,
        Softmax,
        SquareRoot,
        Half,
        Complex,
        FloatOut,
        PythonFloat,
    )
}


@pytest.fixture
def codes() -> nn.Module:
    """A module that computes in integers."""
    return Codes()


@pytest.fixture
def hidings() -> Mapping[str, nn.Module]:
    """Modules that hide a float in their part ``hides``, by the name of how."""
    return {name: Outer(kind()) for name, kind in HIDING.items()}


@pytest.fixture(params=sorted(HIDING))
def hiding(request: pytest.FixtureRequest) -> nn.Module:
    """Each of these."""
    return Outer(HIDING[request.param]())


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """``build(text, *flags, name=…)``: C++ as a shared library."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler was found")

    def build(text: str, *flags: str, name: str = "library") -> Path:
        source, target = tmp_path / f"{name}.cpp", tmp_path / f"{name}.so"
        source.write_text(text, encoding="utf-8")
        command = [compiler, "-O3", "-std=c++17", "-shared", "-fPIC", *flags]
        subprocess.run([*command, str(source), "-o", str(target)], check=True)
        return target

    return build
