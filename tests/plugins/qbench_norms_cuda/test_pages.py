"""Pages of the kernels: the floor of each operation is on one, its bytes over 4.3 TB/s."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qbench_norms_cuda import ops
from qbench_suite import NORM_OPERATIONS, NormProblem

FOLDER = Path(__file__).parents[3] / "docs" / "explanation" / "norms"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md")}
ROW = re.compile(r"^\| `(\w+)` \| ([\dx]+) \| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
BANDWIDTH = 4.3e12


@pytest.mark.parametrize("name", sorted(PAGES))
def test_floors_are_those_of_the_operations(name: str) -> None:
    for operation, shape, dtype, megabytes, microseconds in ROW.findall(PAGES[name]):
        problem = NormProblem(tuple(map(int, shape.split("x"))), getattr(torch, dtype))
        with FakeTensorMode():
            inputs = NORM_OPERATIONS[operation].inputs(problem)
            outputs = NORM_OPERATIONS[operation].eager(inputs)()
            moved = NORM_OPERATIONS[operation].bytes_moved(inputs, outputs)
        assert megabytes == f"{moved / 1e6:.2f}"
        assert microseconds == f"{moved / BANDWIDTH * 1e6:.2f}"


def test_each_norm_has_a_page_that_says_what_is_not_measured() -> None:
    told = {row[0] for text in PAGES.values() for row in ROW.findall(text)}
    forwards = {
        operation.name
        for operation in NORM_OPERATIONS.values()
        if operation.direction == "forward" and operation.quantized is None
    }
    # Channels last, and the sum with a residual, move what the others do.
    others = {name for name in forwards if name.endswith("_nhwc")} | {"add_layer_norm"}
    assert forwards - others <= told
    for name, text in PAGES.items():
        assert "Not measured yet" in text or name == "kernels"
        assert ("# Rows" in text) == (name == "kernels")
        for function in re.findall(r"`ops\.(\w+)\(", text):
            assert hasattr(ops, function)
