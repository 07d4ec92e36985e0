"""Rules: defaults, what YAML may say, and one readable line for each mistake in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qbench_suite.compliance import ComplianceRules, read_rules
from qbench_suite.errors import PolicyError
from qbench_suite.layers import Role

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "compliance.md"


def written(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_by_default_everything_is_checked_exactly() -> None:
    rules = read_rules()
    assert rules == ComplianceRules()
    assert rules.roles == tuple(Role)
    assert (rules.tolerance, rules.ulps) == ("exact", 0)
    assert rules.limits.elements_per_tensor is None
    assert rules.select(["a", "b.c"]) == {"a", "b.c"}


def test_the_documented_rules_are_the_defaults(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert read_rules(written(tmp_path, block)).model_dump() == ComplianceRules().model_dump()
    assert set(yaml.safe_load(block)) == set(ComplianceRules.model_fields)


def test_every_key_is_read(tmp_path: Path) -> None:
    rules = read_rules(
        written(
            tmp_path,
            """
roles: [weight, act]
layers: {include: ["blocks.*"], exclude: ["*.norm?"]}
tolerance: 2
limits:
  images: null
  elements_per_tensor: 1000
  seed: 7
  failures: {per_tensor: 1, total: 5}
""",
        )
    )
    assert rules.roles == (Role.WEIGHT, Role.ACT)
    assert rules.ulps == 2
    assert rules.select(["blocks.0.fc", "blocks.0.norm1", "head"]) == {"blocks.0.fc"}
    limits = rules.limits
    assert (limits.images, limits.elements_per_tensor, limits.seed) == (None, 1000, 7)
    assert (limits.failures.per_tensor, limits.failures.total) == (1, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rolls: [weight]", r"line 1: keys of compliance rules .* got 'rolls'; did you mean roles\?"),
        ("limits:\n  image: 4", r"line 2: keys of limits are known ones; got 'image'; did you"),
        ("roles: [weight]\nlimits:\n  failures:\n    al: 1", r"line 4: keys of limits.failures .*'al'"),
        ("roles: [weight, wait]", r"line 1: roles.1 should be 'weight', .* got 'wait'"),
        ("roles: []", r"line 1: roles should have at least 1 item; got \[\]"),
        ("tolerance: loose", r"line 1: tolerance is exact, or a number of ulps .*; got 'loose'"),
        ("\ntolerance: 0", r"line 2: tolerance is exact, or a number of ulps from 1 to 16; got 0"),
        ("tolerance: 17", r"line 1: tolerance is exact, or a number of ulps from 1 to 16; got 17"),
        ("tolerance: true", r"line 1: tolerance is exact, or a number of ulps .*; got True"),
        ("limits: {images: -1}", r"line 1: limits.images should be greater than or equal to 0; got -1"),
        ("limits: {elements_per_tensor: 0}", r"line 1: limits.elements_per_tensor should be greater"),
        ("limits: {images: many}", r"line 1: limits.images should be a valid integer; got 'many'"),
        ("layers: blocks", r"line 1: layers should be a valid dictionary.* got 'blocks'"),
        ("roles: [weight]\nroles: [act]", r"line 2: a key stands once in a mapping; got 'roles' again"),
        ("roles: [weight", r"line 1: a set of compliance rules is YAML"),
        ("", r"line 1: a set of compliance rules is a mapping of keys to values; got an empty file"),
    ],
)  # fmt: skip
def test_mistakes_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PolicyError, match=message) as caught:
        read_rules(path)
    assert str(caught.value).startswith(str(path))


def test_several_mistakes_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "tolerance: 0\nlimits:\n  images: x\nrols: [act]\n"
    with pytest.raises(PolicyError) as caught:
        read_rules(written(tmp_path, text))
    lines = [int(n) for n in re.findall(r"line (\d+):", str(caught.value))]
    assert lines == [1, 3, 4]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"a set of compliance rules is a YAML file .*got No such"
    ):
        read_rules(tmp_path / "absent.yaml")


def test_patterns_that_choose_no_layer_are_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, "layers:\n  include: [block.*]\n")
    with pytest.raises(
        PolicyError, match=r"line 2: layers to check .* got include \['block\.\*'\]"
    ):
        read_rules(path).select(["blocks.0.fc", "head"])
    with pytest.raises(PolicyError, match="compliance rules: layers to check"):
        ComplianceRules(layers={"exclude": ["*"]}).select(["a"])  # type: ignore[arg-type]
    assert read_rules(path).select([]) == frozenset()


def test_mistakes_are_told_when_model_cases_are_listed(tmp_path: Path) -> None:
    from qbench_suite.engine import Engine, Selection, Settings
    from qbench_suite.manager import default_manager

    path = written(tmp_path, "roles: []\n")
    engine = Engine(default_manager(), Settings(compliance=path))
    with pytest.raises(PolicyError, match="line 1: roles should have at least 1 item"):
        engine.model_cases(Selection(policies="fp32"))
