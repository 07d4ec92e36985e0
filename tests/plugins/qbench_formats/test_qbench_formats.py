"""The shipped formats against the facts of their specifications, ml_dtypes and gfloat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qbench_formats import FORMATS, NF4_VALUES, qbench_register_formats
from qbench_suite import Format

BY_NAME = {f.name: f for f in FORMATS}


@dataclass(frozen=True)
class Facts:
    """What the specification of a format says about it."""

    name: str
    bits: int
    max: float
    min_normal: float
    smallest: float
    count: int
    nan_codes: int
    inf_codes: int
    negative_zero: bool


FACTS = (
    Facts("fp8_e4m3", 8, 448.0, 2.0**-6, 2.0**-9, 253, 2, 0, True),
    Facts("fp8_e5m2", 8, 57344.0, 2.0**-14, 2.0**-16, 247, 6, 2, True),
    Facts("fp8_e4m3fnuz", 8, 240.0, 2.0**-7, 2.0**-10, 255, 1, 0, False),
    Facts("fp8_e5m2fnuz", 8, 57344.0, 2.0**-15, 2.0**-17, 255, 1, 0, False),
    Facts("fp6_e2m3", 6, 7.5, 1.0, 0.125, 63, 0, 0, True),
    Facts("fp6_e3m2", 6, 28.0, 0.25, 0.0625, 63, 0, 0, True),
    Facts("fp4_e2m1", 4, 6.0, 1.0, 0.5, 15, 0, 0, True),
    Facts("fp4_e3m0", 4, 16.0, 0.25, 0.25, 15, 0, 0, True),
    Facts("e8m0", 8, 2.0**127, 2.0**-127, 2.0**-127, 255, 1, 0, False),
    Facts("int8", 8, 127.0, 1.0, 1.0, 255, 0, 0, False),
    Facts("int4", 4, 7.0, 1.0, 1.0, 15, 0, 0, False),
    Facts("int3", 3, 3.0, 1.0, 1.0, 7, 0, 0, False),
    Facts("uint8", 8, 255.0, 1.0, 1.0, 256, 0, 0, False),
    Facts("nf4", 4, 1.0, 0.07958029955625534, 0.07958029955625534, 16, 0, 0, False),
    Facts("bf16", 16, 3.3895313892515355e38, 2.0**-126, 2.0**-133, 65279, 254, 2, True),
    Facts("fp16", 16, 65504.0, 2.0**-14, 2.0**-24, 63487, 2046, 2, True),
)
ML_DTYPES = {
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp8_e4m3fnuz": "float8_e4m3fnuz",
    "fp8_e5m2fnuz": "float8_e5m2fnuz",
    "fp6_e2m3": "float6_e2m3fn",
    "fp6_e3m2": "float6_e3m2fn",
    "fp4_e2m1": "float4_e2m1fn",
    "e8m0": "float8_e8m0fnu",
    "bf16": "bfloat16",
}
GFLOAT = {
    "fp8_e4m3": "format_info_ocp_e4m3",
    "fp8_e5m2": "format_info_ocp_e5m2",
    "fp6_e2m3": "format_info_ocp_e2m3",
    "fp6_e3m2": "format_info_ocp_e3m2",
    "fp4_e2m1": "format_info_ocp_e2m1",
    "e8m0": "format_info_ocp_e8m0",
}
TORCH = {
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
    "e8m0": torch.float8_e8m0fnu,
}


def same_value(a: float, b: float) -> bool:
    """Whether two numbers are the same, NaN being one and zeros two."""
    return (math.isnan(a) and math.isnan(b)) or (
        a == b and math.copysign(1, a) == math.copysign(1, b)
    )


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts.name)
def test_facts_are_those_of_the_specification(facts: Facts) -> None:
    format = BY_NAME[facts.name]
    got = Facts(
        name=format.name,
        bits=format.bits,
        max=format.max,
        min_normal=2.0 ** getattr(format, "min_exponent", math.log2(facts.min_normal)),
        smallest=format.smallest,
        count=len(format.values),
        nan_codes=format.nan_codes,
        inf_codes=format.inf_codes,
        negative_zero=format.has_negative_zero,
    )
    assert got.min_normal == pytest.approx(facts.min_normal, rel=1e-15)
    assert {**vars(got), "min_normal": 0} == {**vars(facts), "min_normal": 0}
    assert list(format.values) == sorted(set(format.values))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_code_means_what_ml_dtypes_says(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    format = BY_NAME[name]
    codes = np.arange(2**format.bits).astype(np.uint8 if format.bits <= 8 else np.uint16)
    with np.errstate(all="ignore"):
        values = codes.view(getattr(ml_dtypes, ML_DTYPES[name])).astype(np.float32)
    decoded = format.decode(torch.from_numpy(codes.astype(np.int32))).numpy()
    assert np.array_equal(np.isnan(decoded), np.isnan(values))
    finite = ~np.isnan(values)
    assert np.array_equal(decoded[finite].view(np.int32), values[finite].view(np.int32))


@pytest.mark.parametrize("name", GFLOAT)
def test_every_code_means_what_gfloat_says(name: str) -> None:
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    info, format = getattr(formats, GFLOAT[name]), BY_NAME[name]
    for code in range(2**format.bits):
        expected = gfloat.decode_float(info, code).fval
        assert same_value(format.code_table.get(code, math.nan), expected), hex(code)


@pytest.mark.parametrize("name", TORCH)
def test_every_code_means_what_torch_says(name: str) -> None:
    codes = torch.arange(256).to(torch.uint8)
    expected = codes.view(TORCH[name]).to(torch.float32)
    decoded = BY_NAME[name].decode(codes)
    assert torch.equal(decoded.isnan(), expected.isnan())
    finite = ~expected.isnan()
    assert torch.equal(decoded[finite].view(torch.int32), expected[finite].view(torch.int32))


def test_every_code_of_fp16_means_what_torch_says() -> None:
    codes = torch.arange(65536).to(torch.int32)
    expected = codes.to(torch.int16).view(torch.float16).to(torch.float32)
    assert torch.equal(
        BY_NAME["fp16"].decode(codes).nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0)
    )


def test_every_code_of_e3m0_means_its_power_of_two() -> None:
    magnitudes = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    table = BY_NAME["fp4_e3m0"].code_table
    expected = magnitudes + [-m for m in magnitudes]
    assert all(same_value(table[code], value) for code, value in enumerate(expected))
    assert len(table) == 16


@pytest.mark.parametrize(
    ("name", "low", "high"), [("int8", -127, 127), ("int4", -7, 7), ("int3", -3, 3)]
)
def test_every_code_of_a_signed_integer_is_twos_complement(name: str, low: int, high: int) -> None:
    format = BY_NAME[name]
    codes = range(2**format.bits)
    integers = [c - 2**format.bits if c >= 2 ** (format.bits - 1) else c for c in codes]
    expected = {c: float(n) for c, n in zip(codes, integers, strict=True) if low <= n <= high}
    assert dict(format.code_table) == expected
    assert set(codes) - set(format.code_table) == {2 ** (format.bits - 1)}


def test_every_code_of_uint8_is_its_number_and_it_is_the_affine_one() -> None:
    assert dict(BY_NAME["uint8"].code_table) == {n: float(n) for n in range(256)}
    assert [f.name for f in FORMATS if f.affine] == ["uint8"]


def test_nf4_is_the_codebook_of_the_qlora_paper() -> None:
    format = BY_NAME["nf4"]
    # Appendix E of the paper: sixteen values, printed to sixteen digits; exact -1, 0 and 1.
    paper = (
        "-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 "
        "-0.18477343022823334 -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 "
        "0.24611230194568634 0.33791524171829224 0.44070982933044434 0.5626170039176941 "
        "0.7229568362236023 1.0"
    )
    assert tuple(map(float, paper.split())) == NF4_VALUES == format.values
    assert dict(format.code_table) == dict(enumerate(format.values))


def test_nf4_follows_from_quantiles_of_the_normal_distribution() -> None:
    special = torch.special.ndtri
    offset = 0.9677083
    positive = special(torch.linspace(offset, 0.5, 9, dtype=torch.float64))[:-1]
    negative = -special(torch.linspace(offset, 0.5, 8, dtype=torch.float64))[:-1]
    values = torch.cat([positive, negative, torch.zeros(1, dtype=torch.float64)]).sort().values
    assert torch.allclose(
        values / values.max(), torch.tensor(NF4_VALUES, dtype=torch.float64), atol=2e-6
    )


def test_e8m0_has_every_power_of_two_and_one_nan() -> None:
    table = BY_NAME["e8m0"].code_table
    assert [table[code] for code in range(255)] == [2.0 ** (code - 127) for code in range(255)]
    assert math.isnan(table[255])
    assert [f.name for f in FORMATS if f.scale_only] == ["e8m0"]


def test_sixteen_bit_floats_and_fp32_are_used_without_a_scale() -> None:
    assert {f.name for f in FORMATS if f.unit_scale} == {"bf16", "fp16", "fp32"}


def test_the_hook_registers_every_format_once() -> None:
    registered: list[Format] = []
    register: Callable[[Format], None] = registered.append
    qbench_register_formats(register)  # type: ignore[arg-type]
    assert registered == list(FORMATS)
    assert len({f.name for f in registered}) == len(registered)
