"""CudaSource: what belongs to it, and when it is another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qbench_suite.errors import KernelError
from qbench_suite.gpu import CudaSource
from qbench_suite.gpu.texts import INCLUDE, texts


@pytest.fixture
def source(tmp_path: Path, forgetful: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.cu").write_text('  # include "deep/b.cuh"\n#include <cuda_fp16.h>\n')
    (tmp_path / "deep" / "b.cuh").write_text('#include "c.cuh"\n#include "../a.cu"\n')
    (tmp_path / "deep" / "c.cuh").write_text('#include "qbench/device.cuh"\n#include "gone.h"\n')
    return tmp_path / "a.cu"


def test_it_holds_what_it_includes_with_quotes(source: Path) -> None:
    names = {
        path.relative_to(source.parent).as_posix()
        for path in texts(source)
        if path.is_relative_to(source.parent)
    }
    assert names == {"a.cu", "deep/b.cuh", "deep/c.cuh"}
    assert (INCLUDE / "qbench" / "device.cuh").resolve() in texts(source)


@pytest.mark.parametrize("changed", ["a.cu", "deep/b.cuh", "deep/c.cuh"])
def test_its_digest_changes_with_any_of_them(source: Path, changed: str) -> None:
    before = CudaSource(source).digest
    path = source.parent / changed
    path.write_text(path.read_text() + "// more\n")
    assert CudaSource(source).digest != before


def test_its_digest_does_not_depend_on_where_it_is(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "deep").mkdir(parents=True)
    for name in ("a.cu", "deep/b.cuh", "deep/c.cuh"):
        (copy / name).write_text((tmp_path / name).read_text())
    assert CudaSource(copy / "a.cu").digest == CudaSource(source).digest


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    function = CudaSource(tmp_path / "absent.cu").function("f")
    with pytest.raises(KernelError, match=r"absent\.cu is not.*check the path"):
        _ = function.source.digest


def test_a_source_that_is_no_text_is_an_error(tmp_path: Path, forgetful: Path) -> None:
    (tmp_path / "bytes.cu").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KernelError, match="readable source"):
        _ = CudaSource(tmp_path / "bytes.cu").digest


def test_naming_a_kernel_loads_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from qbench_suite import CudaSource;"
        "CudaSource(Path('a.cu')).function('f'); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_functions_of_a_name_are_equal(tmp_path: Path) -> None:
    source = CudaSource(tmp_path / "a.cu")
    assert source.function("f<1>") == CudaSource(tmp_path / "a.cu").function("f<1>")
    assert len({source.function("f<1>"), source.function("f<1>"), source.function("f<2>")}) == 2
    assert source.function("f") != CudaSource(tmp_path / "b.cu").function("f")
