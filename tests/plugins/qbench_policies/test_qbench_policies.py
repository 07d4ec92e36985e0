"""The shipped policies: named and described, valid, and saying what their names say."""

from __future__ import annotations

import re

import pytest

from qbench_policies import DEFAULT, FOLDER, qbench_register_policies
from qbench_suite import PolicyEntry, default_manager
from qbench_suite.convert.policy import read_policy
from qbench_suite.convert.resolve import check_policy
from qbench_suite.layers import Role

MANAGER = default_manager()


def entries() -> list[PolicyEntry]:
    found: list[PolicyEntry] = []
    qbench_register_policies(found.append)
    return found


ENTRIES = entries()
NAMES = [entry.name for entry in ENTRIES]


def test_each_file_of_the_folder_is_a_policy_under_its_name() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == NAMES
    assert {entry.name for entry in ENTRIES if entry.default} == DEFAULT


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_each_is_valid_described_and_fit_for_case_ids(entry: PolicyEntry) -> None:
    policy = read_policy(entry.path)
    check_policy(policy, MANAGER)
    assert policy.name == entry.name
    assert re.fullmatch(r"[A-Za-z0-9_.+]+", entry.name)
    assert policy.description == entry.description
    assert 10 < len(entry.description) < 90
    assert "\n" not in entry.description
    assert entry.path.read_text(encoding="utf-8").startswith("# ")


def test_no_two_say_the_same() -> None:
    digests = {read_policy(entry.path).digest for entry in ENTRIES}
    assert len(digests) == len(ENTRIES)


@pytest.mark.parametrize(
    ("name", "weight", "input"),
    [
        ("fp8_e4m3_tensor", "fp8_e4m3 tensor", "fp8_e4m3 tensor"),
        ("fp8_e4m3_channel", "fp8_e4m3 channel", "fp8_e4m3 channel"),
        ("fp8_e5m2_chunk128", "fp8_e5m2 chunk128", "fp8_e5m2 chunk128"),
        ("fp4_e3m0_chunk32", "fp4_e3m0 chunk32", "fp4_e3m0 chunk32"),
        ("mxfp4", "fp4_e2m1 mx32", "fp4_e2m1 mx32"),
        ("mxfp6", "fp6_e2m3 mx32", "fp6_e2m3 mx32"),
        ("mxfp8", "fp8_e4m3 mx32", "fp8_e4m3 mx32"),
        ("mxfp8_e5m2", "fp8_e5m2 mx32", "fp8_e5m2 mx32"),
        ("nvfp4", "fp4_e2m1 nv16", "fp4_e2m1 nv16"),
        ("int8_w8a8_static", "int8 channel", "int8 tensor"),
        ("int8_w8a8_dynamic", "int8 channel", "int8 token"),
        ("int8_full", "int8 channel", "int8 tensor"),
        ("w8a16", "int8 channel", "none"),
        ("w4a16", "int4 chunk128", "none"),
        ("int4_nearest", "int4 channel", "none"),
        ("int4_gptq", "int4 channel", "none"),
        ("int4_adaround", "int4 channel", "none"),
        ("nf4", "nf4 chunk64", "none"),
        ("fp32", "none", "none"),
    ],
)
def test_weights_and_inputs_are_what_the_name_says(name: str, weight: str, input: str) -> None:
    base = read_policy(FOLDER / f"{name}.yaml").variants[0]
    found = [
        f"{s.format.value} {s.mode.value}" if s.quantized else "none"
        for s in (base[Role.WEIGHT], base[Role.INPUT])
    ]
    assert found == [weight, input]


def test_static_scales_are_those_of_the_integer_policies() -> None:
    static = {entry.name for entry in ENTRIES if read_policy(entry.path).static}
    assert static == {"int8_w8a8_static", "int8_full"}


def test_rounding_rules_are_those_of_the_policies_named_after_them() -> None:
    rounded = {entry.name for entry in ENTRIES if read_policy(entry.path).rounds}
    assert rounded == {"int4_gptq", "int4_adaround"}
    for rule in ("nearest", "gptq", "adaround"):
        weight = read_policy(FOLDER / f"int4_{rule}.yaml").variants[0][Role.WEIGHT]
        assert (weight.rounding.value, weight.range.value) == (rule, "mse")


def test_kernels_are_those_of_the_policies_named_after_them() -> None:
    kernels = {entry.name: read_policy(entry.path).kernels for entry in ENTRIES}
    assert {name: found for name, found in kernels.items() if found} == {
        "w8a16": ("w8a16",),
        "w4a16": ("w4a16",),
    }


def test_the_mixed_policy_mixes() -> None:
    policy = read_policy(FOLDER / "mixed_fp8_fp4.yaml")
    assert policy.formats == ("fp4_e2m1", "fp8_e4m3")
    assert policy.first_layer.format == policy.last_layer.format == "fp8_e4m3"
