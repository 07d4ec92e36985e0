"""Compiling: the same bits as eager, few kernels however many shapes, an audible fallback.

A kernel takes a second or two to compile, so each rounding function and each pattern of folded axes
appears here once or twice, not in every combination.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_modes import MODES
from qbench_suite import (
    Axes,
    CodebookFormat,
    FloatFormat,
    Format,
    Mode,
    PerBlock,
    PerChannel,
    PerChunk,
    PerTensor,
    PerToken,
    PowerOfTwo,
    Quantizer,
    TwoLevel,
)
from qbench_suite.scaling import compiling

BY_NAME = {f.name: f for f in FORMATS}
SHIPPED = {m.name: m for m in MODES}
SameBits = Callable[[Tensor, Tensor], bool]
Hard = Callable[..., Tensor]

pytestmark = [
    pytest.mark.skipif(not compiling.compiler(), reason="no C++ compiler"),
    # The compiler itself warns of what is deprecated in it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Kernels are compiled in this module, and must not fall back unless a test says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="A fake-quantize kernel", category=RuntimeWarning)
        yield


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no kernel had been compiled or had failed in this process."""
    monkeypatch.setattr(compiling, "_compiled", {})
    monkeypatch.setattr(compiling, "_failures", [])


class Thirds(FloatFormat):
    """A third party's own rounding."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        return super().round(torch.where(x > 3, x / 3, x))


@dataclass(frozen=True)
class Case:
    """A kernel to compile."""

    name: str
    format: Format
    mode: Mode
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    weight: bool = False
    transposed: bool = False


CUBES = CodebookFormat(name="cubes", bits=5, values=tuple(float(i**3) for i in range(-10, 11)))
THIRDS = Thirds(name="thirds", exponent_bits=4, mantissa_bits=3)
TENSOR = Mode(name="tensor", granularity=PerTensor())
CHANNEL = Mode(name="channel", granularity=PerChannel())
TOKEN = Mode(name="token", granularity=PerToken())
CHUNK = Mode(name="chunk16", granularity=PerChunk(16))
BLOCK = Mode(name="block2x3", granularity=PerBlock(2, 3))
MX = Mode(name="mx16", granularity=PerChunk(16), rule=PowerOfTwo())
RCEIL = Mode(name="rceil16", granularity=PerChunk(16), rule=PowerOfTwo(ceil=True))
NV = Mode(name="nv16", granularity=PerChunk(16), rule=TwoLevel())
E4M3, E2M1 = BY_NAME["fp8_e4m3"], BY_NAME["fp4_e2m1"]
CASES = (
    # Patterns of folded axes, under the rounding that most formats share.
    Case("one-scale", E4M3, TENSOR, (4, 6)),
    Case("rows", E4M3, TOKEN, (6, 40), torch.bfloat16),
    Case("columns", E4M3, CHANNEL, (6, 40)),
    Case("ragged-chunks", E4M3, CHUNK, (3, 40)),
    Case("image-channels", E4M3, CHANNEL, (3, 5, 4, 4)),
    Case("image-chunks", E4M3, MX, (2, 32, 3, 3)),
    Case("blocks", E4M3, BLOCK, (5, 7), weight=True),
    Case("single-elements", E4M3, CHANNEL, (20,)),
    Case("transposed", E4M3, CHANNEL, (6, 40), weight=True, transposed=True),
    # Scale rules and dtypes.
    Case("exponent-up", E4M3, RCEIL, (3, 32), torch.float16),
    Case("two-levels", E2M1, NV, (3, 48), torch.float64),
    # Rounding functions.
    Case("nan-on-overflow", E4M3.variant("spec"), TENSOR, (4, 6)),
    Case("inf-on-overflow", BY_NAME["fp8_e5m2"].variant("spec"), MX, (3, 32)),
    Case("even-code", BY_NAME["fp4_e3m0"], MX, (3, 32)),
    Case("away", BY_NAME["fp6_e2m3"].variant("away"), TENSOR, (4, 6)),
    Case("truncate", BY_NAME["fp8_e4m3fnuz"].variant("truncate"), TENSOR, (4, 6)),
    Case("stochastic", E2M1.variant("stochastic"), MX, (3, 32)),
    Case("wide-exponent", BY_NAME["bf16"], TENSOR, (4, 6), torch.float64),
    Case("integers", BY_NAME["int8"], CHUNK, (3, 32), torch.bfloat16),
    Case("integers-away", BY_NAME["int4"].variant("away"), TENSOR, (4, 6)),
    Case("affine", BY_NAME["uint8"], CHUNK, (3, 32)),
    Case("short-table", BY_NAME["nf4"], CHUNK, (3, 32)),
    Case("long-table", CUBES, TENSOR, (4, 6)),
    Case("table-truncate", BY_NAME["nf4"].variant("truncate"), TENSOR, (4, 6)),
    Case("table-stochastic", BY_NAME["nf4"].variant("stochastic"), TENSOR, (4, 6)),
    Case("identity", BY_NAME["fp32"], TENSOR, (4, 6)),
    Case("third-party", THIRDS, TENSOR, (4, 6)),
)


def inputs(case: Case, hard: Hard) -> Iterator[Tensor]:
    """Tensors of the case's layout, of every kind that is hard to quantize."""
    for flavour in (
        "normal",
        "outliers",
        "zeros",
        "subnormal",
        "small",
        "huge",
        "special",
        "powers",
    ):
        x = hard(case.shape[::-1] if case.transposed else case.shape, flavour).to(case.dtype)
        yield x.t() if case.transposed else x


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiled_and_eager_kernels_give_the_same_bits(
    case: Case, hard: Hard, same_bits: SameBits
) -> None:
    quantizer = Quantizer(case.format, case.mode)
    axes = (Axes.weight if case.weight else Axes.features)(len(case.shape))
    before = compiling.failures()
    for x in inputs(case, hard):
        compiled = quantizer.fake_quantize(x, axes)
        with compiling.eager():
            eager = quantizer.fake_quantize(x, axes)
        assert same_bits(compiled.values, eager.values)
        assert same_bits(compiled.scale, eager.scale)
        if eager.zero_point is not None and compiled.zero_point is not None:
            assert same_bits(compiled.zero_point, eager.zero_point)
    assert compiling.failures() == before


def graphs() -> int:
    """How many graphs the compiler has built in this process, recompilations included."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("fresh")
def test_new_shapes_need_no_new_kernel() -> None:
    quantizer = Quantizer(E4M3, SHIPPED["chunk128"])
    first = graphs()
    # Equal lengths first: they must not be taken for one and the same.
    quantizer.fake_quantize(torch.randn(128, 128))
    assert (compiling.compiled_kernels(), graphs() - first) == (1, 1)
    for shape in [(4, 256), (1, 256), (3, 5, 384), (2, 2, 2, 128), (300, 128), (256,), (2, 128)]:
        axis = len(shape) - 1
        quantizer.fake_quantize(torch.randn(shape), Axes.features(len(shape), axis))
    assert (compiling.compiled_kernels(), graphs() - first) == (1, 1)


@pytest.mark.usefixtures("fresh")
def test_shapes_of_any_rank_share_the_kernel_of_one_scale() -> None:
    quantizer = Quantizer(E4M3, TENSOR)
    first = graphs()
    for shape in [
        (64, 64), (4, 8, 5, 5), (4, 4, 4, 4), (5, 7, 3, 1), (2, 2, 1, 2), (3, 9, 2, 1), (1, 256),
        (130,), (1, 1, 300), (1, 3, 7, 7), (16, 4, 2, 2), (3, 16, 4, 4),
    ]:  # fmt: skip
        quantizer.fake_quantize(torch.randn(shape))
    assert (compiling.compiled_kernels(), graphs() - first) == (1, 1)
    assert compiling.failures() == ()


@pytest.mark.usefixtures("fresh")
def test_a_model_worth_of_images_never_recompiles() -> None:
    quantizer = Quantizer(E4M3, CHANNEL)
    first = graphs()
    for shape in [
        (3, 5, 4, 4),
        (4, 4, 2, 2),
        (2, 8, 7, 3),
        (9, 2, 2, 9),
        (32, 2, 4, 8),
        (7, 7, 7, 7),
    ]:
        quantizer.fake_quantize(torch.randn(shape))
    assert compiling.compiled_kernels() == graphs() - first == 1
    # Where one axis is 1 there are fewer axes to fold, hence one more kernel for each pattern.
    for shape in [(1, 8, 5, 5), (1, 3, 9, 9), (5, 8, 1, 1), (3, 4, 1, 1)]:
        quantizer.fake_quantize(torch.randn(shape))
    assert compiling.compiled_kernels() == graphs() - first == 3


@pytest.mark.usefixtures("fresh")
def test_ragged_ends_and_offsets_recompile_nothing() -> None:
    quantizer = Quantizer(E4M3, CHUNK)
    first = graphs()
    for shape in [(4, 40), (7, 24), (16, 17 + 2), (44, 30), (3, 2 * 16 + 3), (5, 40)]:
        quantizer.fake_quantize(torch.randn(shape))
    kernels = compiling.compiled_kernels()
    assert kernels == graphs() - first
    assert kernels <= 4
    assert compiling.failures() == ()


@pytest.mark.usefixtures("fresh")
def test_formats_of_a_family_share_a_kernel(same_bits: SameBits) -> None:
    x = torch.randn(4, 6)
    first = graphs()
    for name in ("fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1"):
        quantizer = Quantizer(BY_NAME[name], TENSOR)
        compiled = quantizer.fake_quantize(x).values
        with compiling.eager():
            assert same_bits(compiled, quantizer.fake_quantize(x).values)
    assert (compiling.compiled_kernels(), graphs() - first) == (1, 1)


def test_buffers_are_written_by_compiled_kernels_too(same_bits: SameBits) -> None:
    quantizer = Quantizer(E4M3, TENSOR)
    x = torch.randn(4, 6)
    with compiling.eager():
        expected = quantizer.fake_quantize(x).values
    out = torch.empty_like(x)
    assert quantizer.fake_quantize(x, out=out).values is out
    assert same_bits(out, expected)
    strided = torch.empty(6, 4).t()
    quantizer.fake_quantize(x, out=strided)
    assert same_bits(strided, expected)
    quantizer.fake_quantize(x, out=x)
    assert same_bits(x, expected)


def test_compiled_kernels_run_in_inference_mode_and_on_parameters(same_bits: SameBits) -> None:
    quantizer = Quantizer(E4M3, TENSOR)
    parameter = torch.nn.Parameter(torch.randn(4, 6))
    with compiling.eager():
        expected = quantizer.fake_quantize(parameter).values
    assert same_bits(quantizer.fake_quantize(parameter).values, expected)
    with torch.inference_mode():
        assert same_bits(quantizer.fake_quantize(parameter).values, expected)
        assert same_bits(quantizer.fake_quantize(parameter.clone()).values, expected)


@pytest.mark.usefixtures("fresh")
def test_eager_compiles_nothing_and_ends_with_its_block() -> None:
    quantizer = Quantizer(E4M3, TENSOR)
    with compiling.eager():
        with compiling.eager():
            quantizer.fake_quantize(torch.randn(4, 6))
        quantizer.fake_quantize(torch.randn(4, 6))
    assert compiling.compiled_kernels() == 0
    quantizer.fake_quantize(torch.randn(()))
    quantizer.fake_quantize(torch.empty(0))
    assert compiling.compiled_kernels() == 0


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_kernels_fall_back_audibly_once_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, same_bits: SameBits
) -> None:
    monkeypatch.setattr(compiling, "compiler", lambda: "")
    quantizer = Quantizer(E4M3, TENSOR)
    x = torch.randn(4, 6)
    with pytest.warns(
        RuntimeWarning, match=r"uncompiled, with the same bits .*install g\+\+ or clang"
    ):
        values = quantizer.fake_quantize(x).values
    assert compiling.failures() == ("no C++ compiler found; install g++ or clang++",)
    # A second warning would be an error here.
    Quantizer(E4M3, CHANNEL).fake_quantize(x)
    with compiling.eager():
        assert same_bits(values, quantizer.fake_quantize(x).values)


class Untraceable(FloatFormat):
    """A rounding that no compiler can follow."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        return torch.from_numpy(x.numpy().copy()) if float(x.sum()) > -1e30 else x


@pytest.mark.usefixtures("fresh")
def test_a_format_that_cannot_be_compiled_falls_back_with_the_same_bits(
    same_bits: SameBits,
) -> None:
    quantizer = Quantizer(Untraceable(name="odd", exponent_bits=4, mantissa_bits=3), TENSOR)
    x = torch.randn(4, 6)
    with pytest.warns(RuntimeWarning, match="A fake-quantize kernel runs uncompiled"):
        values = quantizer.fake_quantize(x).values
    assert len(compiling.failures()) == 1
    assert same_bits(quantizer.fake_quantize(x).values, values)
    with compiling.eager():
        assert same_bits(quantizer.fake_quantize(x).values, values)


class Broken(FloatFormat):
    """A rounding with a mistake in it."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        raise KeyError("the format's own mistake")


@pytest.mark.usefixtures("fresh")
def test_a_mistake_of_the_format_is_raised_as_it_is() -> None:
    quantizer = Quantizer(Broken(name="broken", exponent_bits=4, mantissa_bits=3), TENSOR)
    for _ in range(2):
        with pytest.raises(KeyError, match="the format's own mistake"):
            quantizer.fake_quantize(torch.randn(4, 6))
    assert compiling.failures() == ()


class Fickle(FloatFormat):
    """A rounding that fails without a word while it is compiled."""

    def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
        return x * 2


@pytest.mark.usefixtures("fresh")
def test_a_failure_without_a_message_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, **options: object) -> Callable[..., None]:
        def compiled(operands: object) -> None:
            raise NotImplementedError

        return compiled

    monkeypatch.setattr(torch, "compile", refuse)
    quantizer = Quantizer(Fickle(name="fickle", exponent_bits=4, mantissa_bits=3), TENSOR)
    with pytest.warns(RuntimeWarning, match="slower: NotImplementedError"):
        quantizer.fake_quantize(torch.randn(4, 6))
    assert compiling.failures() == ("NotImplementedError",)
