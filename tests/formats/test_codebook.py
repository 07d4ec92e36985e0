"""CodebookFormat: a list of values is enough for a correct format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from qbench_formats import FORMATS
from qbench_suite import CodebookFormat, FloatFormat, Format, FormatError, Rounding

BY_NAME = {f.name: f for f in FORMATS}
CODEBOOKS = [f for f in FORMATS if isinstance(f, CodebookFormat)]
#: What a third party may write: name, bits, values.
CUSTOM = (
    CodebookFormat(name="signs", bits=1, values=(-1.0, 1.0)),
    CodebookFormat(name="one", bits=1, values=(0.5,)),
    CodebookFormat(name="ternary", bits=2, values=(-1.0, 0.0, 1.0)),
    CodebookFormat(name="lopsided", bits=3, values=(-0.3125, 1.0, 3.0, 1e9)),
    CodebookFormat(name="many", bits=5, values=tuple(float(i**3) for i in range(-10, 11))),
)


def as_codebook(format: Format, rounding: Rounding = Rounding.NEAREST) -> CodebookFormat:
    """The values and codes of a format, as a table."""
    code_of = {v: c for c, v in reversed(format.code_table.items()) if str(v) != "-0.0"}
    return CodebookFormat(
        name=f"table_{format.name}",
        bits=format.bits,
        values=format.values,
        codes=tuple(code_of[v] for v in format.values),
        rounding=rounding,
    )


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
@pytest.mark.parametrize("format", [*CODEBOOKS, *CUSTOM], ids=lambda f: f.name)
def test_rounding_equals_exact_fractions(
    format: CodebookFormat,
    rounding: str,
    hard: Callable[[Format], Tensor],
    exact: Callable[[Format, float, Rounding], float],
) -> None:
    x = hard(format)
    got = format.variant(rounding).round(x)
    assert got.tolist() == [exact(format, v, Rounding(rounding)) for v in x.tolist()]


@pytest.mark.parametrize("rounding", ["nearest", "away", "truncate"])
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2fnuz", "fp4_e2m1", "fp4_e3m0", "int4"])
def test_the_table_of_a_format_rounds_as_its_arithmetic_does(
    name: str, rounding: str, dense: Tensor, hard: Callable[[Format], Tensor]
) -> None:
    format = BY_NAME[name]
    x = torch.cat([dense, hard(format), torch.tensor([torch.inf, -torch.inf])])
    table = as_codebook(format, Rounding(rounding))
    # Adding +0 makes +0 of −0, which a table has not.
    assert torch.equal(table.round(x), format.variant(rounding).round(x) + 0.0)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp4_e2m1", "fp4_e3m0"])
def test_the_table_of_a_format_rounds_stochastically_as_its_arithmetic_does(name: str) -> None:
    format = BY_NAME[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50_000, generator=generator) * format.max / 3
    noise = torch.rand(50_000, generator=generator)
    table = as_codebook(format, Rounding.STOCHASTIC).round(x, noise=noise)
    assert torch.equal(table, format.variant("stochastic").round(x, noise=noise) + 0.0)


@pytest.mark.parametrize("format", [*CODEBOOKS, *CUSTOM], ids=lambda f: f.name)
def test_out_of_range_saturates_and_nan_stays(format: CodebookFormat) -> None:
    rounded = format.round(torch.tensor([torch.inf, -torch.inf, torch.nan]))
    assert rounded[:2].tolist() == [format.values[-1], format.values[0]]
    assert rounded[2].isnan()


def test_ties_go_to_the_even_code() -> None:
    format = CodebookFormat(name="c", bits=2, values=(0.0, 1.0, 2.0), codes=(1, 2, 3))
    assert format.round(torch.tensor([0.5, 1.5])).tolist() == [1.0, 1.0]
    plain = CodebookFormat(name="c", bits=2, values=(0.0, 1.0, 2.0))
    assert plain.round(torch.tensor([0.5, 1.5])).tolist() == [0.0, 2.0]


def test_truncation_reads_no_noise_and_stochastic_rounding_demands_it() -> None:
    format = BY_NAME["nf4"]
    x, noise = torch.linspace(-1, 1, 101), torch.zeros(101)
    truncating = format.variant("truncate")
    assert torch.equal(truncating.round(x, noise=noise), truncating.round(x))
    with pytest.raises(TypeError, match="needs noise"):
        format.variant("stochastic").round(x)


def test_truncation_stops_one_ulp_before_a_value() -> None:
    format = CodebookFormat(name="c", bits=1, values=(-0.3125, 1.0), rounding=Rounding.TRUNCATE)
    below = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert format.round(below).item() == -0.3125
    assert format.round(torch.tensor(1.0)).item() == 1.0


@dataclass(frozen=True)
class Broken:
    """Arguments of a codebook that contradict each other, and the words of the error."""

    name: str
    bits: int
    values: tuple[float, ...]
    words: str
    codes: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "broken",
    [
        Broken("descending", 2, (1.0, 0.0), "has values that do not ascend"),
        Broken("repeated", 2, (0.0, 0.0), "has values that do not ascend"),
        Broken("too-many", 1, (0.0, 1.0, 2.0), "has 3 values for 1 bits"),
        Broken("empty", 1, (), "has 0 values for 1 bits"),
        Broken("not-float32", 1, (0.0, 0.1), "not a finite float32 number"),
        Broken("infinite", 1, (0.0, float("inf")), "not a finite float32 number"),
        Broken("not-a-number", 1, (0.0, float("nan")), "not a finite float32 number"),
        Broken("repeated-code", 1, (0.0, 1.0), "has 1 distinct codes for 2 values", codes=(1, 1)),
        Broken("code-too-large", 1, (0.0, 1.0), "distinct codes for 2 values", codes=(0, 2)),
    ],
    ids=lambda broken: broken.name,
)
def test_contradictory_codebooks_are_refused(broken: Broken) -> None:
    with pytest.raises(FormatError, match=rf"'odd' .*{broken.words}.*Correct `values`"):
        CodebookFormat(name="odd", bits=broken.bits, values=broken.values, codes=broken.codes)


def test_three_facts_make_a_complete_format() -> None:
    signs = CUSTOM[0]
    x = torch.tensor([[-3.0, 0.5], [2.0, -0.0]])
    rounded = signs.round(x)
    assert rounded.abs().eq(1).all()
    assert torch.equal(signs.decode(signs.encode(rounded)), rounded)
    assert (signs.max, signs.smallest, signs.nan_codes, signs.inf_codes) == (1.0, 1.0, 0, 0)
    assert signs.contains(x).tolist() == [[False, False], [False, False]]


def test_a_subclass_with_its_own_round_is_what_the_kernel_runs() -> None:
    class Sign(CodebookFormat):
        def round(self, x: Tensor, *, noise: Tensor | None = None) -> Tensor:
            return torch.where(x < 0, -1.0, 1.0)

    format = Sign(name="sign", bits=1, values=(-1.0, 1.0))
    kernel = format.round_kernel(torch.device("cpu"))
    x = torch.tensor([-0.1, 0.0, 3.0])
    assert kernel.function(x, None, *kernel.constants).tolist() == [-1.0, 1.0, 1.0]


def test_values_may_be_any_numbers_that_are_float32() -> None:
    format = CodebookFormat(name="c", bits=2, values=(-1, 0, 2))
    assert format.values == (-1.0, 0.0, 2.0)
    assert all(type(v) is float for v in format.values)


def test_e8m0_ties_go_up_as_in_ml_dtypes(hard: Callable[[Format], Tensor]) -> None:
    np = pytest.importorskip("numpy")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    e8m0 = BY_NAME["e8m0"]
    x = hard(e8m0)
    # Out of range ml_dtypes gives NaN, ours saturates; of subnormals ml_dtypes errs by one ulp.
    x = x[(x >= 2.0**-126) & (x <= 2.0**127)]
    expected = x.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert torch.equal(e8m0.round(x), torch.from_numpy(expected))


def test_float_formats_are_no_codebooks() -> None:
    assert not isinstance(BY_NAME["fp8_e4m3"], CodebookFormat)
    assert isinstance(BY_NAME["fp8_e4m3"], FloatFormat)
