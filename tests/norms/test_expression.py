"""Placeholders in names of kernels, and the words that stand for them."""

from __future__ import annotations

import pytest
import torch

from qbench_suite.norms.expression import placeholders, word


def test_names_in_braces_are_found() -> None:
    assert placeholders("norm") == []
    assert placeholders("ns::norm<{x}, 4, {columns}, {x}>") == ["x", "columns", "x"]
    for wrong in ("norm<{}>", "norm<{0}>", "norm<{x", "norm<x}>", "norm<{x.dtype}>", "norm<{x!r}>"):
        with pytest.raises(ValueError, match=r"."):
            placeholders(wrong)


def test_words() -> None:
    given = (None, 7, True, torch.float16, torch.ones(1), torch.ones(1) > 0)
    assert list(map(word, given)) == ["void", "7", "true", "__half", "float", "bool"]
    for wrong in (1e-5, "text", torch.ones(1, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="a template takes a tensor's type or an integer"):
            word(wrong)
