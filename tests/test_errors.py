"""The tree of errors: what catches what, and that its picture is true."""

from __future__ import annotations

import re

import pytest

from qbench_suite import errors

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value is not errors.QBenchError
]


@pytest.mark.parametrize("error", CLASSES)
def test_one_clause_catches_every_error(error: type[Exception]) -> None:
    assert issubclass(error, errors.QBenchError)


@pytest.mark.parametrize("error", CLASSES)
def test_the_picture_shows_the_error_under_its_base_with_its_builtin(
    error: type[Exception],
) -> None:
    line = next(line for line in str(errors.__doc__).splitlines() if error.__name__ in line)
    builtin = re.search(r"\((\w+)\)", line)
    if builtin:
        assert builtin[1] in [base.__name__ for base in error.__bases__]
    else:
        assert line.startswith(("    │   ├──", "    │   └──"))
        (base,) = error.__bases__
        above = str(errors.__doc__).partition(error.__name__)[0]
        assert re.findall(r"    ├── (\w+)", above)[-1] == base.__name__
    meaning = line.partition(")" if builtin else error.__name__)[2]
    assert meaning.strip(), "the picture says what kind of mistake it is"


def test_the_picture_shows_no_error_that_is_gone() -> None:
    drawn = set(re.findall(r"── (\w+Error)", str(errors.__doc__)))
    assert drawn == {error.__name__ for error in CLASSES}


def test_results_error_keeps_the_text_it_is_given() -> None:
    assert str(errors.ResultsError("A journal grows.")) == "A journal grows."
