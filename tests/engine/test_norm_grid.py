"""The grid of norm kernels: ids, defaults by device, selection, and what keeps it out of other runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from qbench_suite import (
    NORM_OPERATIONS,
    FloatFormat,
    IdentityFormat,
    Manager,
    NameNotFoundError,
    NormKernel,
    SelectionError,
)
from qbench_suite.engine import NormCase, Selection
from qbench_suite.engine.norm_grid import norm_cases

MakeManager = Callable[..., Manager]
FORMATS = (
    IdentityFormat(name="fp32"),
    FloatFormat(name="fp16", exponent_bits=5, mantissa_bits=10),
    FloatFormat(name="fp8_e4m3", exponent_bits=4, mantissa_bits=3),
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def kernel(provider: str, operation: str, **fields: object) -> NormKernel:
    known = NORM_OPERATIONS[operation]
    return NormKernel(provider=provider, operation=known, prepare=known.eager, **fields)  # type: ignore[arg-type]


@pytest.fixture
def manager(make_manager: MakeManager) -> Manager:
    return make_manager(
        formats=FORMATS,
        norm_kernels=[
            kernel("a", "rms_norm"),
            kernel("b.c", "rms_norm", dtypes=("bfloat16", "float16"), default=False),
            kernel("a", "group_norm"),
            kernel("a", "rms_norm_fp8_e4m3_token"),
        ],
    )


def ids(manager: Manager, device: torch.device = CPU, **chosen: str) -> list[str]:
    return [case.id for case in norm_cases(Selection(**chosen), manager, device)]


@pytest.mark.parametrize("shape", ["9999999999999999999999x4", "99999999x99999999"])
def test_a_shape_beyond_any_address_space_is_none(manager: Manager, shape: str) -> None:
    with pytest.raises(SelectionError, match=rf"fits an address space.*got {shape}. Ask for a sm"):
        ids(manager, norms="rms_norm:a", norm_shapes=shape)
    assert ids(manager, norms="rms_norm:a", norm_shapes="99999x99999")


def test_id_says_provider_operation_shape_and_dtype() -> None:
    case = NormCase("b.c", "rms_norm", "2048x4096", "bfloat16", "bf16")
    assert (case.id, case.key) == (
        "b.c-rms_norm-2048x4096-bfloat16", "norms/b.c-rms_norm-2048x4096-bfloat16",
    )  # fmt: skip
    assert (case.kernel, case.lengths, case.marks) == ("rms_norm:b.c", (2048, 4096), ("bf16",))


def test_default_grid_on_the_cpu_is_small(manager: Manager) -> None:
    assert ids(manager) == [
        "a-group_norm-1x256x224x224-float32",
        "a-rms_norm-1024x768-bfloat16",
        "a-rms_norm-1024x768-float32",
        "a-rms_norm-2048x4096-float32",
        "a-rms_norm_fp8_e4m3_token-1024x768-bfloat16",
        "a-rms_norm_fp8_e4m3_token-1024x768-float32",
    ]


def test_accelerators_have_all_dtypes_and_large_shapes(manager: Manager) -> None:
    found = ids(manager, CUDA, norms="rms_norm:a")
    operation = NORM_OPERATIONS["rms_norm"]
    shapes = (*operation.shapes, *operation.large_shapes)
    assert len(found) == 3 * len(shapes) > 6
    assert "a-rms_norm-16384x4096-float16" in found


def test_cases_of_a_problem_follow_one_another(manager: Manager) -> None:
    found = ids(manager, norms="rms_norm:*", norm_shapes="32x8,9x100", norm_dtypes="bfloat16")
    assert found == [
        "a-rms_norm-9x100-bfloat16",
        "b.c-rms_norm-9x100-bfloat16",
        "a-rms_norm-32x8-bfloat16",
        "b.c-rms_norm-32x8-bfloat16",
    ]


def test_shapes_go_to_the_operations_of_their_rank(manager: Manager) -> None:
    found = ids(manager, norm_shapes="4096x4096,2x8x4x4", norm_dtypes="float32", norms="*norm:a")
    assert found == ["a-group_norm-2x8x4x4-float32", "a-rms_norm-4096x4096-float32"]


def test_shapes_asked_for_come_in_every_default_dtype(manager: Manager) -> None:
    found = ids(manager, norm_shapes="4096x4096", norms="rms_norm:a")
    assert found == ["a-rms_norm-4096x4096-bfloat16", "a-rms_norm-4096x4096-float32"]


def test_a_kernel_without_a_dtype_has_no_case_in_it(manager: Manager) -> None:
    assert ids(manager, norms="rms_norm:b.c", norm_shapes="8x8") == ["b.c-rms_norm-8x8-bfloat16"]
    assert len(ids(manager, norms="rms_norm:*", norm_shapes="8x8", norm_dtypes="float32")) == 1


@pytest.mark.parametrize(
    ("formats", "found"),
    [
        ("fp8_e4m3", {"rms_norm_fp8_e4m3_token"}),
        ("fp32", {"rms_norm", "group_norm"}),
        ("int8", set()),
    ],
)
def test_formats_are_those_of_outputs(manager: Manager, formats: str, found: set[str]) -> None:
    cases = norm_cases(Selection(formats=formats), manager, CPU)
    assert {case.operation for case in cases} == found
    assert {case.format for case in cases} <= {formats}


def test_dtypes_belong_to_the_formats_of_their_values(manager: Manager) -> None:
    cases = norm_cases(Selection(norms="rms_norm:a"), manager, CUDA)
    assert {case.dtype: case.format for case in cases} == {
        "float32": "fp32", "float16": "fp16", "bfloat16": "bf16",
    }  # fmt: skip


def test_a_dtype_without_a_registered_format_is_told(make_manager: MakeManager) -> None:
    manager = make_manager(norm_kernels=[kernel("a", "rms_norm", dtypes=("float16",))])
    with pytest.raises(SelectionError, match="none has the values of float16"):
        ids(manager, CUDA)


@pytest.mark.parametrize("shapes", ["", "0x8", "8x-1", "x8", "8x8,,8x8", "08x8", "8x8x", "8 x 8"])
def test_shapes_are_lengths_joined_by_x(manager: Manager, shapes: str) -> None:
    with pytest.raises(SelectionError, match="--qbench-norm-shapes takes a comma list"):
        ids(manager, norm_shapes=shapes)


def test_a_shape_that_no_operation_takes_is_a_mistake(manager: Manager) -> None:
    with pytest.raises(SelectionError, match="takes, 2 or 4; got 8x8x8"):
        ids(manager, norm_shapes="8x8,8x8x8")


@pytest.mark.parametrize("dtypes", ["", "float64", "float32,half"])
def test_a_dtype_that_no_kernel_has_is_a_mistake(manager: Manager, dtypes: str) -> None:
    with pytest.raises(SelectionError, match="bfloat16, float16, float32; got"):
        ids(manager, norm_dtypes=dtypes)


def test_names_that_match_nothing_are_mistakes(manager: Manager) -> None:
    with pytest.raises(NameNotFoundError, match="layer_norm"):
        ids(manager, norms="layer_norm:a")


@pytest.mark.parametrize(
    ("chosen", "concerned"),
    [
        ({}, True),
        ({"formats": "fp8*"}, True),
        ({"models": "vit"}, False),
        ({"modes": "tensor"}, False),
        ({"linears": "*"}, False),
        ({"norms": "*"}, True),
        ({"norm_shapes": "8x8"}, True),
        ({"norm_dtypes": "float16", "models": "vit"}, True),
    ],
)
def test_options_of_other_kinds_leave_norms_out(chosen: dict[str, str], concerned: bool) -> None:
    assert Selection(**chosen).concerns("norms") == concerned


@pytest.mark.parametrize("option", ["norms", "norm_shapes", "norm_dtypes"])
def test_options_of_norms_leave_the_others_out(option: str) -> None:
    chosen = Selection(**{option: "8x8"})
    tables = ("layers", "formats", "quantizers", "models", "linears", "integers")
    assert not any(chosen.concerns(table) for table in tables)
    assert chosen.asks_for("norms")
    assert not Selection(formats="nf4").asks_for("norms")
