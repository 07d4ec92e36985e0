"""weight_rounding in policies: what it means, what it may not be, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from qbench_suite import GPTQ, AdaRound, LinearMap, Manager, Role
from qbench_suite.convert.assign import Assignment, assign
from qbench_suite.convert.policy import Policy, read_policy
from qbench_suite.convert.resolve import check_policy
from qbench_suite.convert.sites import Site, Survey
from qbench_suite.errors import PolicyError
from qbench_suite.layers import QuantFunction
from qbench_suite.manager import default_manager


@pytest.fixture(scope="module")
def manager() -> Manager:
    return default_manager()


def read(folder: Path, text: str) -> Policy:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


class Twin(QuantFunction):
    roles: ClassVar[tuple[Role, ...]] = (Role.WEIGHT, Role.INPUT)

    def call(self, function: Any, args: Any, kwargs: Any) -> Tensor:
        return torch.zeros(())


class Map(LinearMap, Twin):  # type: ignore[misc]
    def patches(self, x: Tensor) -> Tensor:
        return x


class Add(Twin):
    roles = (Role.INPUT,)


def site(name: str, type: str, twin: Any, adds: int) -> Site:
    return Site(name, "module", type, twin, "", 0, adds, 8)


SITES = (
    site("stem", "Conv2d", Map, 10),
    site("blocks.0.fc", "Linear", Map, 10),
    site("blocks.0.lstm", "LSTM", Twin, 10),
    site("blocks.0:add", "add", Add, 0),
    site("head", "Linear", Map, 10),
)
SURVEY = Survey(SITES, "stem", "head", "generic", 40)
FOUR = "weight_format: int4\nweight_mode: channel\n"


def found(policy: Policy, manager: Manager) -> dict[str, Assignment]:
    return {a.site.name: a for a in assign(policy, SURVEY, manager)}


def rules(policy: Policy, manager: Manager) -> dict[str, str]:
    return {name: a.rounding.name for name, a in found(policy, manager).items() if a.rounding}


def test_it_is_a_key_of_the_policy_and_of_every_entry(tmp_path: Path, manager: Manager) -> None:
    text = f"""{FOUR}weight_rounding: gptq
types:
  Conv2d: {{weight_rounding: nearest}}
layers:
  "blocks.*": {{weight_rounding: adaround}}
last_layer: {{weight_format: int8}}
"""
    policy = read(tmp_path, text)
    assert rules(policy, manager) == {"blocks.0.fc": "adaround", "head": "gptq"}
    given = found(policy, manager)
    assert isinstance(given["head"].rounding, GPTQ)
    assert isinstance(given["blocks.0.fc"].rounding, AdaRound)
    assert given["stem"].unrounded == given["head"].unrounded == ""
    assert given["blocks.0.lstm"].unrounded == (
        "nearest: what it reads is not multiplied with one weight"
    )
    assert given["blocks.0.lstm"].quantizers
    assert given["blocks.0:add"].rounding is None


def test_what_stays_float_is_not_rounded(tmp_path: Path, manager: Manager) -> None:
    text = f"{FOUR}weight_rounding: gptq\nfirst_layer: none\nexclude: [head]\n"
    assert rules(read(tmp_path, text), manager) == {"blocks.0.fc": "gptq"}


def test_nearest_is_the_default_and_changes_no_digest(tmp_path: Path) -> None:
    plain, nearest = (read(tmp_path, FOUR + more) for more in ("", "weight_rounding: nearest\n"))
    assert not nearest.rounds
    assert not nearest.calibrated
    assert plain.variants[0][Role.WEIGHT].rounding.value == "nearest"
    # As these were before there was any other rounding: results in caches stay valid.
    assert plain.digest == "f7651bc1a550"
    other = read(tmp_path, FOUR + "weight_rounding: gptq\n")
    assert other.digest not in (plain.digest, nearest.digest)


def test_calibration_goes_with_it_and_into_the_digest(tmp_path: Path) -> None:
    gptq = FOUR + "weight_rounding: gptq\n"
    policy = read(tmp_path, gptq + "calibration: {images: 8}\n")
    assert (policy.calibrated, policy.static, policy.rounds) == (True, False, True)
    assert policy.digest != read(tmp_path, gptq).digest
    in_entry = FOUR + "layers:\n  a: {weight_rounding: gptq}\ncalibration: {seed: 1}\n"
    assert read(tmp_path, in_entry).calibrated


MISTAKES = [
    (FOUR + "weight_rounding: gtpq\n", 3, "got 'gtpq'; did you mean gptq"),
    (FOUR + "weight_rounding: nearst\n", 3, "did you mean nearest"),
    (FOUR + "weight_rounding: true\n", 3, "got true"),
    (FOUR + "weight_rounding:\n", 3, "weight_rounding has a value; got nothing"),
    (FOUR + "input_rounding: gptq\n", 3, "got 'input_rounding'"),
    (FOUR + "rounding: gptq\n", 3, "got 'rounding'"),
    (
        "format: fp8_e4m3\nweight_rounding: adaround\n",
        2,
        "chooses between integers; got adaround for weights in fp8_e4m3, which is no integer format",
    ),
    (
        FOUR + "weight_rounding: gptq\nlayers:\n  head: {weight_format: nf4}\n",
        3,
        "got gptq for weights in nf4",
    ),
    (
        "input_format: int8\nweight_rounding: gptq\n",
        2,
        "weights that are quantized are rounded; got weight_rounding: gptq, and no format of weights",
    ),
    (
        "input_format: int8\nlayers:\n  head: {weight_rounding: gptq}\n",
        3,
        "weights that are quantized are rounded",
    ),
    (FOUR + "weight_rounding: nearest\ncalibration: {images: 2}\n", 4, "got scales: dynamic"),
]


@pytest.mark.parametrize(("text", "line", "words"), MISTAKES)
def test_mistakes_have_a_line(
    tmp_path: Path, manager: Manager, text: str, line: int, words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        check_policy(read(tmp_path, text), manager)
    assert f"p.yaml, line {line}: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("types:\n  LSTM: {weight_rounding: gptq}\n", "got gptq for blocks.0.lstm (LSTM)"),
        ("types:\n  add: {weight_rounding: gptq}\n", "an entry sets roles that a site it matches"),
    ],
)
def test_an_entry_for_weights_that_no_rule_can_serve_is_a_mistake(
    tmp_path: Path, manager: Manager, entry: str, words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        assign(read(tmp_path, FOUR + entry), SURVEY, manager)
    assert "p.yaml, line 4: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("format", ["int8", "int4", "int3", "uint8"])
def test_every_integer_format_may_be_rounded(tmp_path: Path, manager: Manager, format: str) -> None:
    policy = read(tmp_path, f"weight_format: {format}\nweight_rounding: gptq\n")
    check_policy(policy, manager)
    assert set(rules(policy, manager)) == {"stem", "blocks.0.fc", "head"}
