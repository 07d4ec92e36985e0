"""Norms to compare with: each computes its operation here, or says why it cannot."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from qbench_norms_torch import KERNELS, compiled, qbench_register_norm_kernels
from qbench_suite import NORM_OPERATIONS, NormKernel, NormOperation, NormProblem, ulp_errors

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CODES = (torch.int8, torch.float8_e4m3fn)
BY_NAME = {kernel.name: kernel for kernel in KERNELS}
#: Compiling takes seconds: one of each kind here, all of them among the slow tests.
COMPILED = (
    "rms_norm",
    "layer_norm_backward",
    "add_rms_norm_fp8_e4m3_token",
    "batch_norm_nhwc",
    "qk_norm_attention",
)
CASES = [(kernel, dtype) for kernel in KERNELS for dtype in kernel.dtypes]


def cases(*, slow: bool) -> list[object]:
    chosen = [
        (kernel, dtype)
        for kernel, dtype in CASES
        if slow
        == (
            kernel.provider == "torch.compile"
            and (kernel.operation.name not in COMPILED or dtype != "bfloat16")
        )
    ]
    return [pytest.param(k, d, id=f"{k.name}-{d}") for k, d in chosen]


def shape_of(kernel: NormKernel) -> tuple[int, ...]:
    if "attention" in kernel.operation.fused:
        return (2, 3, 5, 16)
    return {2: (6, 96), 3: (2, 3, 64), 4: (2, 6, 3, 5)}[kernel.operation.rank]


def available(kernel: NormKernel) -> NormKernel:
    if reason := kernel.unavailable(DEVICE):
        pytest.skip(reason)
    return kernel


def agree(operation: NormOperation, outputs: list[Tensor], exact: tuple[Tensor, ...]) -> None:
    """Whether codes · scales agree within a step of the code, as codes of a y that is rounded elsewhere do.

    Of a y beside a power of two the scale of a chunk under one is halved or doubled.
    """
    (codes, scales), (expected, expected_scales) = outputs[:2], exact[:2]
    assert codes.dtype in CODES
    floating = codes.dtype == torch.float8_e4m3fn
    ratio = (scales / expected_scales).float()
    wide = 1.01 if operation.quantized != ("fp8_e4m3", "mx32") else 2
    assert bool(((ratio <= wide) & (ratio >= 1 / wide)).all())
    assert codes.float().isfinite().all()
    of_element = -(-codes.shape[-1] // scales.shape[-1])
    spread = [
        s.repeat_interleave(of_element, -1)[..., : codes.shape[-1]]
        for s in (scales, expected_scales)
    ]
    values = [c.float() * s for c, s in zip((codes, expected), spread, strict=True)]
    least = torch.maximum(*spread) * (2**-9 if floating else 1)
    step = torch.maximum(values[1].abs() / 8, least) if floating else least
    # A scale that is off by a little moves large codes' values with it.
    assert bool(((values[0] - values[1]).abs() <= step + 0.01 * values[1].abs()).all())


def check(kernel: NormKernel, dtype: str, affine: str | None) -> None:
    """Every output within the tolerance of its dtype, the same at a second call, inputs as they were."""
    operation = kernel.operation
    shape = shape_of(kernel)
    inputs = operation.inputs(NormProblem(shape, getattr(torch, dtype), affine, device=DEVICE))  # type: ignore[arg-type]
    kept = {name: v.clone() for name, v in inputs.items() if isinstance(v, Tensor)}
    thunk = kernel.prepare(inputs)
    exact = operation.exact(inputs)
    outputs = [output.clone() for output in thunk()]
    assert len(outputs) == len(exact)
    if operation.quantized:
        agree(operation, outputs, exact)
    for name, output, reference in zip(operation.outputs, outputs, exact, strict=False):
        assert output.shape == reference.shape, name
        if name == "codes" or (operation.quantized and name == "scales"):
            continue
        judged = output.dtype
        found = ulp_errors(output, reference, judged)
        assert found.max_ulp <= kernel.tolerance(str(judged).removeprefix("torch.")), (name, found)
        assert found.nonfinite == 0
    if "batch_norm" not in operation.name:  # running statistics move on
        assert all(torch.equal(a, b) for a, b in zip(thunk(), outputs, strict=True))
    for name, tensor in kept.items():
        assert torch.equal(inputs[name], tensor), f"{name} is left as it was"


@pytest.mark.filterwarnings("default")  # what torch warns of while it compiles is its own
@pytest.mark.parametrize(("kernel", "dtype"), cases(slow=False))
def test_a_kernel_computes_its_operation(kernel: NormKernel, dtype: str) -> None:
    for affine in (kernel.affine or kernel.operation.affine)[
        : 1 if kernel.provider == "torch.compile" else None
    ]:
        check(available(kernel), dtype, affine)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("kernel", "dtype"), cases(slow=True))
def test_a_compiled_kernel_computes_its_operation(kernel: NormKernel, dtype: str) -> None:
    check(available(kernel), dtype, None)


def test_each_is_registered_once() -> None:
    registered: list[NormKernel] = []
    qbench_register_norm_kernels(registered.append)
    assert registered == list(KERNELS)
    assert len(BY_NAME) == len(KERNELS)
    assert all(kernel.description for kernel in KERNELS)


def test_torch_computes_every_operation_everywhere() -> None:
    """Every case has something to be compared with."""
    for provider in ("torch", "torch.compile"):
        names = {k.operation.name for k in KERNELS if k.provider == provider}
        assert names == set(NORM_OPERATIONS)
    assert all(not BY_NAME[f"{name}:torch"].unavailable(CPU) for name in NORM_OPERATIONS)
    assert all(BY_NAME[f"{name}:torch"].default for name in NORM_OPERATIONS)


@pytest.mark.parametrize(
    ("provider", "package"),
    [
        ("liger", "liger_kernel is not installed; pip install liger-kernel"),
        ("quack", "quack is not installed; pip install quack-kernels"),
        ("apex", "fused_layer_norm_cuda is not installed; build apex"),
        ("cudnn", "cudnn is not installed; pip install nvidia-cudnn-frontend"),
    ],
)
def test_a_library_that_is_not_there_is_named(
    provider: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = BY_NAME[f"rms_norm:{provider}"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kernel.unavailable(torch.device("cuda")).startswith(package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert kernel.unavailable(CPU) == "it runs on a CUDA device, not on cpu"


def test_cudnn_needs_a_torch_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = BY_NAME["batch_norm:cudnn"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert not kernel.unavailable(torch.device("cuda"))
    assert kernel.unavailable(CPU) == "it runs on a CUDA device, not on cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without cuDNN" in kernel.unavailable(torch.device("cuda"))


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    assert "TORCHDYNAMO_DISABLE" in compiled.uncompilable(CPU)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "install g++" in compiled.uncompilable(CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "triton" in compiled.uncompilable(torch.device("cuda"))


@pytest.mark.parametrize("name", ["rms_norm", "add_layer_norm_backward"])
def test_other_inputs_of_the_same_shapes_are_not_compiled_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that many sets of inputs can be prepared; all that a graph depends on has one of its own."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    compiled._graph.cache_clear()
    kernel = available(BY_NAME[f"{name}:torch.compile"])

    def run(rows: int, dtype: torch.dtype, seed: int, eps: float) -> None:
        problem = NormProblem((rows, 40), dtype, seed=seed, device=DEVICE)
        inputs = {**kernel.operation.inputs(problem), "eps": eps}
        outputs, exact = kernel.prepare(inputs)(), kernel.operation.exact(inputs)
        for output, reference in zip(outputs, exact, strict=True):
            assert ulp_errors(output, reference).max_ulp <= 512

    for seed in range(4):
        run(6, torch.float32, seed, 1e-5)
    assert len(graphs) == 1
    for rows, dtype, eps in (
        (7, torch.float32, 1e-5),
        (6, torch.float16, 1e-5),
        (6, torch.float32, 9.0),
    ):
        before = len(graphs)
        run(rows, dtype, 0, eps)
        run(rows, dtype, 1, eps)
        assert len(graphs) == before + 1
    compiled._graph.cache_clear()


def test_more_shapes_are_compiled_than_torch_takes_of_one_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gives up on a code object after eight variants, and raises as the graph is to be whole."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    kernel = available(BY_NAME["rms_norm:torch.compile"])
    for rows in range(1, 11):
        problem = NormProblem((rows, 32), affine="none", device=DEVICE)
        (y,) = kernel.prepare(kernel.operation.inputs(problem))()
        assert y.shape == (rows, 32)
