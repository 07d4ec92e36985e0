"""The page on kernels: its example runs as it stands, and finds what it says it finds."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from qbench_suite import KernelError
from qbench_suite.gpu import toolkit
from qbench_suite.native.compiler import find_compiler

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "kernels.md"
FILES = dict(
    re.findall(r"^```\w+\n(?://|#) (\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
)

pytestmark = pytest.mark.skipif(
    find_compiler() is None or toolkit.headers() is None,
    reason="no C++ compiler, or none of CUDA's headers",
)


def run(folder: Path, *changes: tuple[str, str]) -> None:
    """Run the page's example, with changes to its kernel."""
    for name, text in FILES.items():
        for before, after in changes if name.endswith(".cu") else ():
            assert before in text
            text = text.replace(before, after)
        (folder / name).write_text(text)
    runpy.run_path(str(folder / "row_sum.py"))


def test_the_example_runs(tmp_path: Path) -> None:
    run(tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("i < args.columns", "i <= args.columns"), KernelError),
        (("    __syncthreads();\n", ""), AssertionError),
        (("threadIdx.x / 32] = sum", "threadIdx.x / 32 + 1] = sum"), KernelError),
        (("lane > 0;", "lane > 0 && threadIdx.x % 3;"), KernelError),
    ],
    ids=["beyond the tensor", "no barrier", "beyond an array", "a shuffle for some"],
)
def test_mistakes_in_the_example_are_found(
    tmp_path: Path, change: tuple[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(tmp_path, change)
