"""The shipped rounding rules: registered, described, and worth their names on a layer like a real one."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qbench_rounding import ROUNDING_RULES
from qbench_suite import AdaRound, RoundingProblem, RoundingRule, default_manager

RULES = {rule.name: rule for rule in ROUNDING_RULES}


def test_they_are_registered_and_described() -> None:
    manager = default_manager()
    assert {rule.name for rule in manager.rounding_rules} >= set(RULES)
    assert set(RULES) == {"nearest", "adaround", "gptq"}
    assert all(10 < len(rule.description) < 90 for rule in ROUNDING_RULES)


def test_parameters_are_those_of_the_paper() -> None:
    rule = RULES["adaround"]
    assert isinstance(rule, AdaRound)
    assert (rule.regularization, rule.betas, rule.warm_up) == (0.01, (20.0, 2.0), 0.2)


@pytest.fixture(scope="module")
def layer() -> tuple[Tensor, Tensor, Tensor]:
    """A weight (96, 64), and correlated inputs of mean 0.3: to learn from, and held back."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -1.5, 64)[:, None]
    mix = torch.randn(64, 64, generator=generator) * spectrum * 3 / 8
    x = torch.randn(3072, 64, generator=generator) @ mix + 0.3
    return torch.randn(96, 64, generator=generator) / 8, x[:2048], x[2048:]


def least_squares(weight: Tensor, high: int) -> Tensor:
    """The scale of each channel of least squared error, of eighty."""
    tried = weight.abs().amax(1, keepdim=True) / high * (torch.arange(1, 81) / 80)
    codes = (weight[:, None] / tried[..., None]).round().clamp(-high, high)
    errors = (codes * tried[..., None] - weight[:, None]).square().sum(-1)
    return tried.gather(1, errors.argmin(1, keepdim=True)).expand_as(weight)


def sqnr(weight: Tensor, values: Tensor, x: Tensor) -> float:
    wanted = x @ weight.mT
    return 10 * math.log10(float(wanted.square().sum() / (wanted - x @ values.mT).square().sum()))


@pytest.mark.parametrize("high", [127, 7, 3], ids=["W8", "W4", "W3"])
@pytest.mark.parametrize(("name", "gain"), [("gptq", 4.0), ("adaround", 4.5), ("nearest", 0.0)])
def test_they_gain_on_inputs_that_they_have_not_seen(
    layer: tuple[Tensor, Tensor, Tensor], name: str, gain: float, high: int
) -> None:
    weight, x, held = layer
    wide = x.double()
    problem = RoundingProblem(
        weight=weight[None],
        scale=least_squares(weight, high)[None],
        low=-high,
        high=high,
        moments=(wide.mT @ wide)[None],
    )
    rule: RoundingRule = RULES[name]
    if isinstance(rule, AdaRound):
        rule = replace(rule, steps=1000)
    nearest, codes = problem.nearest(), rule.round(problem)
    before, after = (sqnr(weight, problem.values(c)[0], held) for c in (nearest, codes))
    assert after >= before + gain
    assert torch.equal(codes, codes.round().clamp(-high, high))


ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (ROOT / "docs" / "how-to" / "rounding.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def test_the_manuals_layer_gains_what_the_manual_says(capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[0], {})
    gains = {
        name: float(gain)
        for name, gain in re.findall(r"(\w+): .* \+ (\S+) dB", capsys.readouterr().out)
    }
    assert gains["gptq"] >= 5.0
    assert gains["adaround"] >= 6.0


def test_the_manuals_rule_rounds(layer: tuple[Tensor, Tensor, Tensor]) -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[1], names)
    found: list[RoundingRule] = []
    register = names["qbench_register_rounding_rules"]
    assert callable(register)
    register(found.append)
    weight, x, held = layer
    wide = x.double()
    problem = RoundingProblem(
        weight=weight[None],
        scale=least_squares(weight, 7)[None],
        low=-7,
        high=7,
        moments=(wide.mT @ wide)[None],
    )
    before, after = (
        sqnr(weight, problem.values(codes)[0], held)
        for codes in (problem.nearest(), found[0].round(problem))
    )
    assert after > before + 2.0
