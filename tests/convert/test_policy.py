"""Policies: what they mean, what contradicts itself, and one sentence a mistake, with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench_suite.convert.overrides import Overrides, merged
from qbench_suite.convert.policy import Calibration, Policy, policy_named, read_policy
from qbench_suite.convert.resolve import check_policy
from qbench_suite.errors import NameNotFoundError, PolicyError
from qbench_suite.layers import Role
from qbench_suite.manager import Manager, default_manager


@pytest.fixture(scope="module")
def manager() -> Manager:
    return default_manager()


def read(folder: Path, text: str, name: str = "p.yaml") -> Policy:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def roles(policy: Policy, variant: int = 0) -> dict[str, tuple[str, str, str]]:
    """(format, mode, range) of every role that is quantized."""
    return {
        str(role): (s.format.value, s.mode.value, s.range.value)
        for role, s in policy.variants[variant].items()
        if s.quantized
    }


def test_the_base_format_sets_weights_and_inputs_alone(tmp_path: Path) -> None:
    policy = read(tmp_path, "format: fp8_e4m3\n", "my policy.yml")
    assert roles(policy) == dict.fromkeys(("weight", "input"), ("fp8_e4m3", "tensor", "absmax"))
    assert (policy.name, policy.scope, policy.scales) == ("my policy", "multiply_add", "dynamic")
    assert (policy.formats, policy.static) == (("fp8_e4m3",), False)
    assert (policy.calibration.images, policy.calibration.batch) == (256, 32)


def test_keys_of_a_role_go_before_those_of_the_policy(tmp_path: Path) -> None:
    text = """
format: int8
mode: channel
range: mse
weight_format: int4
weight_mode: chunk
weight_chunk_size: 64
input_range: absmax
act_format: same
output_format: fp8_e4m3
output_mode: token
"""
    assert roles(read(tmp_path, text)) == {
        "weight": ("int4", "chunk64", "mse"),
        "input": ("int8", "channel", "absmax"),
        "act": ("int8", "channel", "mse"),
        "output": ("fp8_e4m3", "token", "mse"),
    }


def test_none_leaves_a_role_float(tmp_path: Path) -> None:
    w8a16 = read(tmp_path, "weight_format: int8\nweight_mode: channel\ninput_format: none\n")
    assert roles(w8a16) == {"weight": ("int8", "channel", "absmax")}
    assert roles(read(tmp_path, "format: int8\ninput_format: none\n")).keys() == {"weight"}
    assert roles(read(tmp_path, "format: none\n")) == {}


def test_entries_change_what_they_name_and_inherit_the_rest(tmp_path: Path) -> None:
    text = """
format: fp4_e2m1
mode: mx32
weight_mode: channel
layers:
  "a": {format: fp8_e4m3}
  "b": {mode: tensor}
  "c": none
  "d": same
  "e": {weight_format: int8, act_format: same}
"""
    policy = read(tmp_path, text)
    kinds = [roles(policy, index) for index in range(1, 6)]
    assert kinds[0] == {
        "weight": ("fp8_e4m3", "channel", "absmax"),
        "input": ("fp8_e4m3", "mx32", "absmax"),
    }
    # An entry comes later than the policy's own keys, those of single roles included.
    assert kinds[1] == dict.fromkeys(("weight", "input"), ("fp4_e2m1", "tensor", "absmax"))
    assert kinds[2] == {}
    assert kinds[3] == roles(policy)
    assert kinds[4] == {
        "weight": ("int8", "channel", "absmax"),
        "input": ("fp4_e2m1", "mx32", "absmax"),
        "act": ("fp4_e2m1", "mx32", "absmax"),
    }
    assert policy.formats == ("fp4_e2m1", "fp8_e4m3", "int8")


KINDS = st.sampled_from(["format", "mode", "range"])
TARGETS = st.sampled_from(["", *(f"{role}_" for role in Role)])
ENTRY = st.dictionaries(st.builds(str.__add__, TARGETS, KINDS), st.sampled_from("abcd"), max_size=6)


@given(st.lists(ENTRY, max_size=4))
def test_merging_is_what_reading_line_by_line_would_give(entries: list[dict[str, str]]) -> None:
    """The rule of the manual, one setting at a time: the last entry that says anything has its way,
    and within an entry the key of the role before the general one."""
    settings = merged([((str(i),), Overrides(**e)) for i, e in enumerate(entries)])  # type: ignore[arg-type]
    for role in Role:
        for kind, default in (("format", "none"), ("mode", "tensor"), ("range", "absmax")):
            expected, origin = default, ()
            for i, entry in enumerate(entries):
                general = kind != "format" or role in (Role.WEIGHT, Role.INPUT)
                for key in ([kind] if general else []) + [f"{role}_{kind}"]:
                    if key in entry:
                        expected, origin = entry[key], (str(i), key)
            found = getattr(settings[role], kind)
            assert (found.value, found.key) == (expected, origin)


def test_policies_that_say_the_same_have_one_digest(tmp_path: Path) -> None:
    digest = read(tmp_path, "format: fp8_e4m3\nmode: chunk128\n").digest
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    same = [
        "mode: chunk\nchunk_size: 128\nformat: fp8_e4m3\n",
        "name: other\ndescription: words\nformat: fp8_e4m3\nmode: chunk128\nscales: dynamic\n",
        "format: fp8_e4m3\nmode: chunk128\nlayers:\nexclude: []\nfirst_layer: same\n",
    ]
    assert {read(tmp_path, text).digest for text in same} == {digest}


@pytest.mark.parametrize(
    "text",
    [
        "format: fp8_e5m2\nmode: chunk128\n",
        "format: fp8_e4m3\nmode: chunk64\n",
        "format: fp8_e4m3\nmode: chunk128\nscope: all\n",
        "format: fp8_e4m3\nmode: chunk128\nexclude: [head]\n",
        "format: fp8_e4m3\nmode: chunk128\nlayers: {head: none}\n",
        "format: fp8_e4m3\nmode: chunk128\nlayers: {head: same}\n",  # it may bring head into scope
        "format: fp8_e4m3\nmode: chunk128\ntypes: {head: none}\n",
        "format: fp8_e4m3\nmode: chunk128\nfirst_layer: none\n",
        "format: fp8_e4m3\nmode: chunk128\nfold_batch_norm: true\n",
        "format: fp8_e4m3\nmode: chunk128\nweight_range: mse\n",
        "format: fp8_e4m3\nmode: channel\nscales: static\n",
        "format: fp8_e4m3\nmode: channel\nscales: static\ncalibration: {images: 8}\n",
    ],
)
def test_policies_that_say_something_else_have_another(tmp_path: Path, text: str) -> None:
    others = {
        "format: fp8_e4m3\nmode: chunk128\n",
        "format: fp8_e4m3\nmode: channel\nscales: static\n",
    }
    digests = {read(tmp_path, other).digest for other in others - {text}}
    assert read(tmp_path, text).digest not in digests


def test_the_order_of_entries_counts(tmp_path: Path) -> None:
    one = read(tmp_path, "format: int8\nlayers: {'a*': none, '*b': {mode: channel}}\n")
    two = read(tmp_path, "format: int8\nlayers: {'*b': {mode: channel}, 'a*': none}\n")
    assert one.digest != two.digest


def test_static_is_about_activations(tmp_path: Path) -> None:
    assert read(tmp_path, "format: int8\nscales: static\n").static
    assert not read(tmp_path, "format: int8\n").static
    assert read(
        tmp_path, "weight_format: int8\nscales: static\ntypes: {a: {act_format: int8}}\n"
    ).static


def test_a_policy_is_frozen() -> None:
    policy = Policy(format="int8")
    with pytest.raises(ValueError, match="frozen"):
        policy.format = "int4"  # type: ignore[misc]


MISTAKES = [
    ("formt: int8\n", 1, "keys of a policy are known ones; got 'formt'; did you mean format"),
    ("format: int8\n\nact_fromat: same\n", 3, "got 'act_fromat'; did you mean act_format"),
    ("format: int8\nlayers:\n  head:\n    weight_fromat: int4\n", 4, "did you mean weight_format"),
    ("format: int8\nscales: static\ncalibration:\n  image: 3\n", 4, "did you mean images?"),
    (
        "format: int8\nscope: al\n",
        2,
        "scope is 'multiply_add' or 'all'; got 'al'; did you mean all?",
    ),
    ("format: int8\nscales: statik\n", 2, "got 'statik'; did you mean static?"),
    ("format: 8\n", 1, "format should be a valid string; got 8; write for instance fp8_e4m3."),
    ("format: int8\nchunk_size: 0\nmode: chunk\n", 2, "chunk_size should be greater than 0; got 0"),
    ("format: int8\nfold_batch_norm: 1\n", 2, "fold_batch_norm should be a valid boolean; got 1"),
    ("format: int8\nname: a/b\n", 2, "name should match"),
    ("format:\n", 1, "format has a value; got nothing; give one, or drop the line."),
    ("format: int8\nlayers: [head]\n", 2, "layers is a mapping; got ['head']; indent"),
    (
        "format: int8\nlayers:\n  head: int4\n",
        3,
        "layers.head is a mapping, or none, or same; got 'int4'",
    ),
    (
        "format: int8\nfirst_layer: float\n",
        2,
        "first_layer is a mapping, or none, or same; got 'float'",
    ),
    ("format: int8\nexclude: head\n", 2, "exclude should be a valid list; got 'head'"),
    ("format: int8\nexclude:\n  - head\n  - 3\n", 4, "exclude.1 should be a valid string; got 3"),
    ("format: int8\nmode: chunk\n", 2, "mode chunk has a chunk_size; got none; write chunk_size"),
    ("format: int8\nmode: tensor\nchunk_size: 8\n", 3, "got 8 with mode tensor; write mode: chunk"),
    ("format: int8\nchunk_size: 8\n", 2, "got 8 with no mode"),
    ("format: int8\nweight_mode: chunk\n", 2, "write weight_chunk_size beside it"),
    (
        "format: int8\nweight_mode: chunk8\nweight_chunk_size: 8\n",
        3,
        "goes with weight_mode: chunk",
    ),
    ("format: int8\nlayers:\n  a:\n    mode: chunk\n", 4, "mode chunk has a chunk_size"),
    ("format: int8\ncalibration: {images: 8}\n", 2, "got scales: dynamic; write scales: static"),
    ("format: int8\nexclude: [a, b]\nlayers:\n  b: none\n", 2, "got 'b' in exclude and in layers"),
    (
        "weight_format: int8\nscales: static\n",
        2,
        "static scales are of activations, quantized ones; got scales: static, and no role",
    ),
    ("format: none\nmode: tensor\nscales: static\n", 3, "static scales are of activations"),
    (
        "weight_format: int8\nscales: static\ncalibration: {images: 4}\n",
        2,
        "drop scales and calibration",
    ),
    (
        "format: none\nweight_format: same\n",
        2,
        "same is the format that the key format names; got weight_format: same with format: none",
    ),
    ("format: none\nact_format: same\n", 2, "got act_format: same with format: none"),
    ("act_format: same\n", 1, "got act_format: same with no format"),
    (
        "weight_format: same\nlayers: {a: {format: int8}}\n",  # which is written over `same`
        1,
        "got weight_format: same with no format",
    ),
    (
        "format: int8\nlayers:\n  a: {format: none, weight_format: same}\n",
        3,
        "got weight_format: same with format: none",
    ),
    (
        "format: int8\nweight_format: none\ninput_format: none\n",
        1,
        "got format: int8 for no role; write format: and a name",
    ),
    ("layers: {head: none}\n", 1, "a policy says what is quantized to what; got no format at all"),
    (
        "format: int8\nscales: static\ncalibration: {seed: 9223372036854775808}\n",
        3,
        "calibration.seed should be less than 9223372036854775808",
    ),
    ("format: int8\nscales: static\ncalibration: {seed: -1}\n", 3, "calibration.seed should be"),
    (
        "format: int8\nscales: static\ncalibration: {images: 99999999999999999999}\n",
        3,
        "calibration.images should be less than 9223372036854775808",
    ),
    ("format: int8\nmode: chunk\nchunk_size: 2147483648\n", 3, "should be less than 2147483648"),
    ("format: int8\nmode: chunk2147483648\n", 2, "sizes in a mode are below 2**31; got chunk2147"),
    (f"format: int8\nweight_mode: block2x{'9' * 5000}\n", 2, "sizes in a mode are below 2**31"),
    (
        "format: off\n",
        1,
        "got off, which YAML reads as false; put it in quotes, or write for instance fp8_e4m3.",
    ),
    ("format: int8\nexclude: [head, no]\n", 2, "got no, which YAML reads as false; put it in q"),
    ("format: int8\nfirst_layer: on\n", 2, "got on, which YAML reads as true"),
    ("format: true\n", 1, "got true; put it in quotes"),
    ("format: int8\noptional: true\n", 2, "got 'optional'"),
    ("format: int8\nfirst_layer: {optional: true}\n", 2, "got 'optional'"),
    ("mode: tensor\n", 1, "a policy says what is quantized to what; got no format at all"),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_says_file_line_and_remedy(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'p.yaml'}, line {line}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    assert str(caught.value).count("; got ") == 1


def test_all_mistakes_come_in_one_error_in_order(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, "format: int8\nlayers:\n  a: 3\nscope: x\nmood: tensor\n")
    assert [line.split(":")[0].split()[-1] for line in str(caught.value).splitlines()] == [
        "3",
        "4",
        "5",
    ]


def test_one_chunk_size_may_serve_the_roles(tmp_path: Path) -> None:
    policy = read(tmp_path, "format: int8\nweight_mode: chunk\nchunk_size: 16\n")
    assert roles(policy)["weight"][1] == "chunk16"
    assert roles(policy)["input"][1] == "tensor"


CONFLICTS = [
    ("format: int9\n", 1, "got 'int9'; did you mean int8"),
    ("format: int8\nmode: tensr\n", 2, "got 'tensr'; did you mean tensor"),
    (
        "format: int8\nrange: percentil\n",
        2,
        "range rule is called by a registered name; got 'percentil'",
    ),
    ("format: int8\nlayers:\n  a: {format: fp8_e4m}\n", 3, "got 'fp8_e4m'; did you mean fp8_e4m3"),
    ("format: int8\nmode: chunk0\n", 2, "a chunk holds at least 1 element"),
    ("format: int8\ninput_format: bf16\nmode: channel\n", 2, "bf16 in mode channel for input"),
    ("format: uint8\nmode: mx32\n", 1, "uint8 has a zero point"),
    ("format: e8m0\n", 1, "e8m0 is a format for scales"),
    ("format: int8\ntypes:\n  Linear: {format: bf16, mode: token}\n", 3, "bf16 in mode token"),
    ("format: int8\nmode: token\nscales: static\n", 2, "mode token for input, which has a scale"),
    ("format: int8\nscales: static\nmode: chunk\nchunk_size: 32\n", 3, "mode chunk32 for input"),
    ("format: int8\nscales: static\nmode: block8x8\n", 3, "mode block8x8 for input"),
    ("format: int8\nscales: static\nmode: nv16\nweight_mode: nv16\n", 3, "mode nv16 for input"),
    ("format: int8\nscales: static\nlayers:\n  a:\n    input_mode: token\n", 5, "mode token"),
    ("format: int8\nact_format: same\nact_mode: token\nscales: static\n", 3, "mode token for act"),
    (
        "format: int8\ninput_range: moving_average\n",
        2,
        "moving_average for input, of dynamic scales",
    ),
    ("format: int8\nrange: moving_average\nscales: static\n", 2, "moving_average for weight"),
]


@pytest.mark.parametrize(("text", "line", "message"), CONFLICTS, ids=[c[0] for c in CONFLICTS])
def test_names_that_do_not_go_together(
    tmp_path: Path, manager: Manager, text: str, line: int, message: str
) -> None:
    policy = read(tmp_path, text)
    with pytest.raises(PolicyError) as caught:
        check_policy(policy, manager)
    assert str(caught.value).startswith(f"{tmp_path / 'p.yaml'}, line {line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "format: int8\nscales: static\n",
        "format: int8\nmode: channel\nscales: static\n",
        # Weights do not change, so their scales may depend on the position.
        "format: int8\nweight_mode: chunk128\nscales: static\n",
        "format: int8\nweight_mode: mx32\ninput_range: moving_average\nscales: static\n",
        "format: int8\nweight_range: mse\ninput_range: percentile99.9\n",
        "format: bf16\n",
        "format: fp8_e4m3+stochastic\nmode: mx32\n",
        "format: none\nmode: token\n",
        # The format that `same` is about may come from another entry.
        "act_format: same\nlayers: {a: {format: int8}}\n",
        "types: {b: {format: int8}}\nlayers: {a: {weight_format: same}}\n",
        "format: int8\nlayers: {a: {weight_format: same, act_format: same}}\n",
        "format: none\nlayers: {a: {format: int8, act_format: same}}\n",
        "weight_format: int8\nscales: static\nlayers: {a: {output_format: int8}}\n",
        "format: int8\nmode: chunk2147483647\n",
        "format: int8\nscales: static\ncalibration: {seed: 9223372036854775807}\n",
        "format: int8\ntypes: {a: {mode: channel, optional: true}}\n",
    ],
)
def test_names_that_do(tmp_path: Path, manager: Manager, text: str) -> None:
    check_policy(read(tmp_path, text), manager)


def test_a_policy_made_in_code_names_its_place_in_errors(manager: Manager) -> None:
    policy = Policy.model_validate({"format": "int8", "layers": {"head": {"format": "int9"}}})
    with pytest.raises(PolicyError, match=r"policy policy, layers\.head\.format: .*int8"):
        check_policy(policy, manager)


def test_a_policy_is_found_by_name_or_path(tmp_path: Path, manager: Manager) -> None:
    read(tmp_path, "format: int8\n")
    assert policy_named(str(tmp_path / "p.yaml"), manager).name == "p"
    assert policy_named("fp32", manager).formats == ()
    with pytest.raises(NameNotFoundError, match="fp32"):
        policy_named("fp33", manager)


ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "how-to" / "policies.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL))
def test_the_examples_of_the_manual_are_sound(tmp_path: Path, manager: Manager, text: str) -> None:
    check_policy(read(tmp_path, text), manager)


def test_the_manual_names_every_key() -> None:
    for key in (*Policy.model_fields, *Calibration.model_fields):
        role = key.partition("_")[0]
        assert f"`{key}" in MANUAL or f"`{role}_…`" in MANUAL or f"`{key}:" in MANUAL, key


@pytest.mark.parametrize(
    "text",
    [
        "format: int8\nmodde: tensor\n",
        "format: int8\nlayers:\n  a: none\n  head:\n    weigth_format: int4\n",
        "format: fp8_e4m4\n",
        "format: int8\nscales: static\nmode: token\n",
        "\nformat: bf16\nmode: channel\n",
        "format: int8\n\n\ncalibration: {images: 3}\n",
        "format: int8\nlayers:\n  head: none\n\n\nexclude: [head]\n",
        "weight_format: int8\n\nkernel: w8a61\n",
        "weight_format: int8\n\n\nkernel: torchao.int8wo\n",
    ],
)
def test_mistakes_read_as_the_manual_shows(tmp_path: Path, manager: Manager, text: str) -> None:
    shown = [line for line in MANUAL.splitlines() if line.startswith("my.yaml, line")]
    with pytest.raises(PolicyError) as caught:
        check_policy(read(tmp_path, text, "my.yaml"), manager)
    assert str(caught.value).removeprefix(f"{tmp_path}/") in shown
