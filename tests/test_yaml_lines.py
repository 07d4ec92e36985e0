"""YAML with lines: data equal to PyYAML's own, the line of everything, and one error a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qbench_suite.errors import PolicyError
from qbench_suite.yaml_lines import parse_yaml, read_yaml, sentence

TEXT = """\
# a comment
format: fp8
layers:
  "blocks.*":
    mode: chunk
    chunk_size: 32
  head: none
exclude: [a, b]
calibration: {images: 256,
  seed: 1}
nothing:
flag: true
"""
FILE = Path("p.yaml")


def test_data_is_what_pyyaml_reads() -> None:
    assert parse_yaml(TEXT, FILE).data == yaml.safe_load(TEXT)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("format",), 2),
        (("layers",), 3),
        (("layers", "blocks.*"), 4),
        (("layers", "blocks.*", "chunk_size"), 6),
        (("exclude", 1), 8),
        (("calibration", "seed"), 10),
        (("nothing",), 11),
        # What was not written is where what is around it was.
        (("layers", "blocks.*", "format"), 4),
        (("layers", "head", "format"), 7),
        (("scope",), 1),
        ((), 1),
    ],
)
def test_each_key_has_its_line(key: tuple[str | int, ...], line: int) -> None:
    assert parse_yaml(TEXT, FILE).line(key) == line


def test_a_value_may_begin_below_its_key() -> None:
    document = parse_yaml("layers:\n  head: none\n", FILE)
    assert (document.line(("layers",)), document.line(("layers",), of_value=True)) == (1, 2)


SCALARS = st.one_of(st.integers(), st.booleans(), st.text("abc *:#'\"é", max_size=5), st.none())
DATA = st.dictionaries(
    st.text("abcxyz.*", min_size=1, max_size=4),
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
        ),
        max_leaves=10,
    ),
    min_size=1,
    max_size=4,
)


@given(DATA, st.booleans())
def test_whatever_is_dumped_is_read_back(data: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, sort_keys=False)
    document = parse_yaml(text, FILE)
    assert document.data == data
    lines = [document.line((key,)) for key in data]
    assert lines == sorted(lines)
    if not flow:  # each key begins its own line, so the text shows it
        written = [text.splitlines()[line - 1] for line in lines]
        assert all(yaml.safe_load(w.split(":")[0].lstrip("? ")) is not None for w in written)


def test_keys_are_text_as_written() -> None:
    assert parse_yaml("0: a\nno: b\n1.5: c\n", FILE).data == {"0": "a", "no": "b", "1.5": "c"}


def test_an_alias_is_what_it_names() -> None:
    data = parse_yaml("a: &x {mode: tensor}\nb: *x\n", FILE).data
    assert data["b"] == {"mode": "tensor"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: a policy is a mapping of keys to values; got an empty file"),
        ("# only this\n", "line 1: a policy is a mapping of keys to values; got an empty file"),
        ("\n- a\n- b\n", "line 2: a policy is a mapping of keys to values; got a list"),
        ("fp8\n", "line 1: a policy is a mapping of keys to values; got the single value 'fp8'"),
        (
            "a: 1\nb: 2\na: 3\n",
            "line 3: a key stands once in a mapping; got 'a' again, first on line 1",
        ),
        ("x:\n  a: 1\n  a: 1\n", "line 3: a key stands once"),
        ("x: {0: a, '0': b}\n", "line 1: a key stands once"),
        ("a: 1\n[b]: 2\n", "line 2: a key is a word; got a list"),
        ("a: &x [1, *x]\n", "line 1: an alias does not name what it stands in"),
        ("a: 1\nb: c: d\n", "line 2: a policy is YAML; got mapping values"),
        ("a: 1\n\tb: 2\n", "line 2: a policy is YAML"),
        ("a: 1\nb: *c\n", "line 2: a policy is YAML"),
        ("a: *.conv\n", "line 1: a policy is YAML"),
        ("a: 1\n---\nb: 2\n", "a policy is YAML"),
        ("a: 1\nb: !!python/object/apply:os.getcwd []\n", ""),
        ("a: !!python/name:os.getcwd\n", "line 1: a policy is YAML"),
        ("a: 1\nb: 2024-99-99\n", "line 2: a value can be read; got '2024-99-99'"),
        ("a: b\nc: \x07\n", "line 2: a policy is YAML; got special characters"),
        ("a: {*: none}\n", "begins an alias: write patterns with * in quotes."),
        ("a:\n  b: 1\n  *.conv: none\n", "line 3: a policy is YAML; got "),
        ("a:\n  *conv: none\n", "an unquoted * begins an alias"),
        (
            "a: [*head]\n",
            "line 1: a policy is YAML; got found undefined alias 'head'; an unquoted *",
        ),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "line 3: a mapping has keys of its own; aliases are taken",
        ),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "got the merge key <<; repeat the keys, or write an alias",
        ),
        ("a: " + "[" * 5000, "a policy is YAML; got too deep a nest"),
    ],
)
def test_a_mistake_is_one_error_with_its_line(text: str, message: str) -> None:
    if not message:  # a tag that would run code is passed over, whatever it says
        assert parse_yaml(text, FILE).data == {"a": 1, "b": []}
        return
    with pytest.raises(PolicyError) as caught:
        parse_yaml(text, FILE)
    assert str(caught.value).startswith("p.yaml, line ")
    assert message in str(caught.value)
    assert str(caught.value).count("; got ") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: '*.conv' b\n", "a: b: 2*3\n", "a: b: c # *\n"])
def test_a_mistake_without_a_bare_asterisk_is_not_put_down_to_one(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_yaml(text, FILE)
    assert "alias" not in str(caught.value)


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse_yaml("'<<': 1\n", FILE).data == {"<<": 1}


def test_words_are_kept_as_written() -> None:
    document = parse_yaml("a: off\nb: [0x10, 'x']\n", FILE)
    assert document.words == {("a",): "off", ("b", 0): "0x10", ("b", 1): "x"}


def test_a_long_list_is_not_put_down_to_an_alias() -> None:
    parse_yaml(f"a: [{', '.join(['x'] * 9_000)}]", FILE)
    with pytest.raises(PolicyError, match=r"at most 10,000 values.*; got more; shorten it"):
        parse_yaml(f"a: [{', '.join(['x'] * 10_001)}]", FILE)


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(PolicyError, match="10,000 values"):
        parse_yaml("\n".join(["l0: &l0 x", *levels]), FILE)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"missing\.yaml: .*No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(PolicyError, match="Is a directory"):
        read_yaml(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"description: caf\xe9\n")
    with pytest.raises(PolicyError, match=r"latin\.yaml: .*UTF-8"):
        read_yaml(latin)


def test_a_document_says_where_a_mistake_is() -> None:
    error = parse_yaml(TEXT, FILE).error(("exclude", 1), "it is so", "not so", "Mend it.")
    assert str(error) == "p.yaml, line 8: it is so; got not so; mend it."


def test_a_remedy_that_asks_keeps_its_question_mark() -> None:
    assert sentence("f", "a", "b", "Did you mean c?") == "f: a; got b; did you mean c?"
