"""Declared kernels: the one of the documentation, every kind of argument, and what cannot be declared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench_suite import (
    SM_90,
    KernelError,
    NameNotFoundError,
    NormKernel,
    NormProblem,
    cuda_norm_kernel,
    cuda_unavailable,
    default_manager,
    emulating,
    ulp_errors,
)
from qbench_suite.norms import declared

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "norm-kernels.md"
SOURCE = Path(__file__).with_name("declared.cu")
CPU = torch.device("cpu")


@pytest.fixture(params=["emulator", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        yield torch.device("cuda")
        return
    with emulating(SM_90):
        if reason := cuda_unavailable(CPU):
            pytest.skip(reason)
        yield CPU


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page, each under the name in its first line."""
    page = PAGE.read_text(encoding="utf-8")
    for text in re.findall(r"```(?:cuda|python)\n(.*?)```", page, re.DOTALL):
        if named := re.match(r"(?:#|//) (\w+\.\w+)\n", text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
    return tmp_path


def check(kernel: NormKernel, problem: NormProblem) -> None:
    """Outputs of the kernel are torch's in kind and the reference's in value."""
    inputs = kernel.operation.inputs(problem)
    run = kernel.prepare(inputs)
    found, again = run(), run()
    eager, expected = kernel.operation.eager(inputs)(), kernel.operation.exact(inputs)
    assert len(found) == len(eager)
    for y, second, own, reference in zip(found, again, eager, expected, strict=False):
        assert (y.shape, y.dtype, y.stride()) == (own.shape, own.dtype, own.stride())
        assert y.data_ptr() != second.data_ptr()
        assert torch.equal(y, second)
        errors = ulp_errors(y, reference)
        assert errors.max_ulp <= kernel.tolerance(str(y.dtype).removeprefix("torch."))


def test_the_kernel_of_the_page(folder: Path, device: torch.device) -> None:
    manager = default_manager(files=[folder / "my_norms.py", folder / "my_other_norms.py"])
    assert not manager.problems
    kernel = manager.norm_kernels.get("rms_norm:mine")
    assert kernel.unavailable(device) == ""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for affine in kernel.operation.affine:
            for shape in ((5, 1001), (3, 1), (2, 64)):
                check(kernel, NormProblem(shape, dtype, affine, device=device))


def test_the_tests_of_the_page(folder: Path) -> None:
    """As its reader runs them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_norms.py"]
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parent.parent.parent)}
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 passed" in run.stdout


def test_the_functions_of_the_page(folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (text,) = (t for t in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import ops" in t)
    made: dict[str, Any] = {}
    exec(compile(text, str(PAGE), "exec"), made)
    assert made["codes"].dtype == torch.float8_e4m3fn
    assert made["scales"].shape == (4, 6)
    assert made["weight"].grad is not None


def batch_norm(**fields: Any) -> NormKernel:
    declaration: dict[str, Any] = {
        "provider": "slow",
        "operation": "batch_norm",
        "source": SOURCE,
        "function": "batch_norm<{x}, {channels}>",
        "arguments": (
            *("x", "weight", "bias", "running_mean", "running_var"),
            *("y", "new_running_mean", "new_running_var"),
            *("images", "channels", "pixels", "twice", "momentum", "eps"),
        ),
        "grid": "channels",
        "block": 32,
        "sizes": {"twice": lambda inputs: 2 * len(inputs["x"])},
    }
    return cuda_norm_kernel(**{**declaration, **fields})


@pytest.mark.parametrize("affine", ["weight_bias", "weight", "none"])
def test_sizes_of_images_numbers_and_outputs_named_as_inputs(
    affine: Any, device: torch.device
) -> None:
    check(batch_norm(), NormProblem((2, 3, 4, 5), torch.float16, affine, device=device))


def test_a_source_may_be_named_by_text(device: torch.device) -> None:
    check(batch_norm(source=str(SOURCE)), NormProblem((2, 3, 4, 5), torch.float16, device=device))


@pytest.mark.parametrize("affine", ["weight_bias", "weight", "none"])
def test_tensors_that_are_left_out_are_null(affine: Any, device: torch.device) -> None:
    outputs = ("dx", "dalpha", "dweight", "dbias")
    kernel = cuda_norm_kernel(
        provider="slow",
        operation="dynamic_tanh_backward",
        source=SOURCE,
        function="tanh_backward<{x}, {weight}>",
        arguments=("dy", "x", "alpha", "weight", *outputs, "rows", "columns"),
        grid=lambda sizes: -(-sizes["columns"] // 64),
        block=64,
        description="a column a thread",
        default=False,
    )
    assert (kernel.description, kernel.default) == ("a column a thread", False)
    check(kernel, NormProblem((4, 70), torch.float32, affine, device=device))


def test_without_elements_nothing_is_launched(device: torch.device) -> None:
    kernel = batch_norm(function="no_such_kernel<{x}>", block=0)
    inputs = kernel.operation.inputs(NormProblem((2, 3, 1, 1), device=device))
    inputs["x"] = inputs["x"][:, :, :0]
    with pytest.raises(KernelError, match=r"no_such_kernel|1 to 1024 threads"):
        kernel.prepare({**inputs, "x": torch.ones(2, 3, 1, 1, device=device)})
    y, *_ = batch_norm().prepare({**inputs, "x": inputs["x"][:0]})()
    assert y.numel() == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arguments": ("x", "y", "new_running_mean")}, "'running_var' is not passed"),
        ({"operation": "batch_norms"}, "no 'batch_norms'. Did you mean batch_norm"),
        ({"arguments": "y"}, "arguments of batch_norm:slow is a tuple"),
        ({"grid": 2.0}, "grid that is an int, a size or a function: 2.0 .*; correct"),
        ({"block": None}, "block that is .*: None"),
        ({"shared_bytes": True}, "shared_bytes that is .*: True"),
        ({"sizes": {"twice": 2}}, "functions of the inputs: twice=2"),
        ({"function": "batch_norm<{}>"}, "names in closed braces: 'batch_norm<{}>'"),
        ({"function": "batch_norm<{0}>"}, "names in closed braces"),
        ({"function": None}, "names in closed braces: None"),
        ({"function": "batch_norm<{x"}, "names in closed braces: 'batch_norm<{x'"),
        ({"function": "batch_norm<{x.dtype}>"}, "'x.dtype', which is no name"),
        ({"function": "batch_norm<{channels:5}>"}, "names in closed braces"),
    ],
)
def test_what_is_wrong_when_it_is_declared(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((KernelError, NameNotFoundError), match=words):
        batch_norm(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"function": "batch_norm<{z}, 3>"}, "placeholder 'z' is none: .*; correct"),
        ({"grid": "chanels"}, "size of grid 'chanels' is none: Did you mean channels"),
        ({"block": "threads"}, "size of block 'threads'"),
        ({"function": "batchnorm<{x}, 3>"}, "batchnorm"),
        ({"source": SOURCE.with_name("none.cu")}, "none.cu"),
        ({"block": lambda sizes: 2048}, "1 to 1024 threads"),
        ({"grid": lambda sizes: sizes["chanels"]}, "name in grid 'chanels' is none: .* channels"),
        ({"grid": lambda sizes: sizes["rows"] / 2}, "grid that is an integer: 12.0 .*; correct"),
        ({"grid": lambda sizes: 1 // 0}, "grid that is worked out: ZeroDivisionError"),
        ({"sizes": {"twice": lambda inputs: 2.5}}, "size twice that is an integer: 2.5"),
        ({"sizes": {"twice": lambda inputs: inputs["z"]}}, "name in size twice 'z' is none"),
        ({"function": "batch_norm<{eps}, 3>"}, "eps: it is the float 1e-05"),
        ({"shared_bytes": 1 << 20}, "shared memory"),
    ],
)
def test_what_is_wrong_when_it_is_prepared(
    fields: dict[str, Any], words: str, device: torch.device
) -> None:
    kernel = batch_norm(**fields)
    inputs = kernel.operation.inputs(NormProblem((2, 3, 4, 5), device=device))
    with pytest.raises(KernelError, match=words):
        kernel.prepare(inputs)()


def test_an_argument_of_no_name(device: torch.device) -> None:
    outputs = ("y", "new_running_mean", "new_running_var")
    kernel = batch_norm(arguments=(*outputs, "wieght"))
    inputs = kernel.operation.inputs(NormProblem((2, 3, 4, 5), device=device))
    with pytest.raises(KernelError, match="argument 'wieght' is none: Did you mean weight"):
        kernel.prepare(inputs)
    with pytest.raises(KernelError, match="integers and floats: kind is 'text'"):
        batch_norm(arguments=(*outputs, "kind")).prepare({**inputs, "kind": "text"})
    with pytest.raises(KernelError, match=r"takes .* bytes"):
        batch_norm(arguments=outputs).prepare(inputs)()


def test_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "emulating(SM_90)" in cuda_unavailable(CPU)
    assert "'meta'" in cuda_unavailable(torch.device("meta"))
    with emulating(SM_90):
        monkeypatch.setattr(declared, "find_compiler", lambda: None)
        assert "needs a C++ compiler" in cuda_unavailable(CPU)
        monkeypatch.undo()
        monkeypatch.setattr(declared, "headers", lambda: None)
        assert "CUDA's headers" in cuda_unavailable(CPU)
    monkeypatch.setattr(declared, "architecture_of", lambda device: SM_90)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "NVRTC" in cuda_unavailable(torch.device("cuda"))
