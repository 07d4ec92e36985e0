"""What other libraries are called with: doubles with their signatures, which compute with torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_norms_torch import KERNELS, cudnn_frontend
from qbench_suite import KernelError, NormKernel, NormProblem, ulp_errors

BY_NAME = {kernel.name: kernel for kernel in KERNELS}


class Liger:
    """``liger_kernel.transformers.functional``."""

    @staticmethod
    def liger_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    @staticmethod
    def liger_rms_norm(
        x: Tensor,
        weight: Tensor,
        eps: float,
        offset: float = 0.0,
        casting_mode: str = "llama",
        in_place: bool = True,
    ) -> Tensor:
        assert (casting_mode, in_place) == ("gemma", False)
        return F.rms_norm(x, list(x.shape[-1:]), weight + offset, eps)

    @classmethod
    def liger_fused_add_rms_norm(
        cls,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        offset: float = 0.0,
        casting_mode: str = "llama",
        in_place: bool = True,
    ) -> tuple[Tensor, Tensor]:
        total = x + residual
        return cls.liger_rms_norm(total, weight, eps, offset, casting_mode, in_place), total

    @staticmethod
    def liger_group_norm(
        x: Tensor, weight: Tensor, bias: Tensor, num_channels: int, num_groups: int, eps: float
    ) -> Tensor:
        assert num_channels == x.shape[1]
        return F.group_norm(x, num_groups, weight, bias, eps)

    @staticmethod
    def liger_dyt(x: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return torch.tanh(alpha * x) * gamma + beta


class Quack:
    """``quack.rmsnorm``."""

    @staticmethod
    def rmsnorm(
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        out_dtype: Any = None,
        residual_dtype: Any = None,
        eps: float = 1e-6,
        prenorm: bool = False,
        weight_offset: float = 0.0,
    ) -> Any:
        total = x if residual is None else x + residual
        scale = None if weight is None else weight + weight_offset
        y = F.rms_norm(total, list(x.shape[-1:]), scale, eps)
        return (y, total) if prenorm else y

    @staticmethod
    def layernorm_fwd(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        eps: float = 1e-6,
        return_rstd: bool = False,
        return_mean: bool = False,
    ) -> Any:
        assert weight.dtype == torch.float32
        y = F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)
        var, mean = torch.var_mean(x.float(), 1, correction=0)
        return (y, (var + eps).rsqrt(), mean) if return_rstd and return_mean else y

    @staticmethod
    def layernorm_bwd(
        x: Tensor, weight: Tensor, dout: Tensor, rstd: Tensor, mean: Tensor, has_bias: bool = True
    ) -> tuple[Tensor, ...]:
        assert has_bias
        bias = torch.zeros_like(weight)
        given = (dout.float(), x.float(), x.shape[-1:], mean[:, None], rstd[:, None], weight, bias)
        found = torch.ops.aten.native_layer_norm_backward(*given, [True, True, True])
        return (found[0].to(x.dtype), *found[1:])


class Apex:
    """``apex.normalization.fused_layer_norm``."""

    @staticmethod
    def fused_layer_norm_affine(
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        normalized_shape: Any,
        eps: float = 1e-6,
        memory_efficient: bool = False,
    ) -> Tensor:
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    @staticmethod
    def fused_rms_norm_affine(
        input: Tensor,
        weight: Tensor,
        normalized_shape: Any,
        eps: float = 1e-6,
        memory_efficient: bool = False,
    ) -> Tensor:
        return F.rms_norm(input, list(normalized_shape), weight, eps)


class Node(SimpleNamespace):
    """A tensor of a graph of cuDNN."""

    __hash__ = object.__hash__

    def set_output(self, _: bool) -> Node:
        return self

    def set_data_type(self, data_type: str) -> Node:
        self.data_type = data_type
        return self


class NotSupportedError(RuntimeError):
    """``cudnn.cudnnGraphNotSupportedError``."""


class Graph:
    """``cudnn.pygraph``: one norm, computed in float64 from the tensors bound to its inputs."""

    def __init__(self, **types: Any) -> None:
        assert types["intermediate_data_type"] == types["compute_data_type"] == "FLOAT"
        self.built: list[str] = []

    def tensor(self, **fields: Any) -> Node:
        node = Node(**fields)
        dim, stride = node.dim, node.stride
        assert len(dim) == len(stride) == 4
        assert dim[2:] == [1, 1]
        assert stride[1] == 1
        return node

    def _norm(self, **given: Any) -> list[Node]:
        self.given = given
        self.results = [Node(place=place) for place in range(3)]
        return self.results

    def rmsnorm(self, name: str, norm_forward_phase: str, **given: Any) -> list[Node]:
        assert norm_forward_phase == "INFERENCE"
        assert set(given) == {"input", "scale", "epsilon"}
        return self._norm(**given)

    def layernorm(self, name: str, norm_forward_phase: str, **given: Any) -> list[Node]:
        assert norm_forward_phase == "INFERENCE"
        assert set(given) == {"input", "scale", "bias", "epsilon"}
        return self._norm(**given)

    def rmsnorm_backward(self, name: str, has_dbias: bool, **given: Any) -> list[Node]:
        assert has_dbias is False
        assert set(given) == {"grad", "input", "scale", "inv_variance"}
        return self._norm(**given)

    def layernorm_backward(self, name: str, **given: Any) -> list[Node]:
        assert set(given) == {"grad", "input", "scale", "inv_variance", "mean"}
        return self._norm(**given)

    def __getattr__(self, step: str) -> Any:
        if step not in (
            "validate",
            "build_operation_graph",
            "create_execution_plans",
            "check_support",
            "build_plans",
        ):
            raise AttributeError(step)
        return lambda *_: self.built.append(step)

    def get_workspace_size(self) -> int:
        assert self.built[-1] == "build_plans"
        return 64

    def execute(self, pack: dict[Node, Tensor], workspace: Tensor, handle: str) -> None:
        assert (workspace.numel(), handle) == (64, "handle of cpu on 7")
        given = {name: pack[node].double() for name, node in self.given.items()}
        for result, node in zip(self.compute(**given), self.results, strict=False):
            if node in pack:
                pack[node].copy_(result.reshape(pack[node].shape))

    def compute(self, input: Tensor, scale: Tensor, **given: Tensor) -> tuple[Tensor, ...]:
        if "grad" not in given:
            eps, bias = float(given["epsilon"]), given.get("bias")
            if bias is None:
                return (F.rms_norm(input, list(scale.shape), scale, eps),)
            return (F.layer_norm(input, list(scale.shape), scale, bias, eps),)
        rstd, dy = given["inv_variance"][:, None], given["grad"]
        xhat = (input - given["mean"][:, None] if "mean" in given else input) * rstd
        scaled = dy * scale
        dx = scaled - xhat * (scaled * xhat).mean(1, keepdim=True)
        dx = dx - (scaled.mean(1, keepdim=True) if "mean" in given else 0)
        return dx * rstd, (dy * xhat).sum(0), dy.sum(0)


class Cudnn:
    """``cudnn``, of nvidia-cudnn-frontend."""

    data_type = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", BFLOAT16="BFLOAT16")
    norm_forward_phase = SimpleNamespace(INFERENCE="INFERENCE")
    heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
    cudnnGraphNotSupportedError = NotSupportedError  # noqa: N815 - as it is there
    pygraph = Graph
    streams: dict[str, int] = {}  # noqa: RUF012 - a double

    @staticmethod
    def backend_version() -> int:
        return 92600

    @classmethod
    def set_stream(cls, handle: str, stream: int) -> None:
        assert (handle, stream) == ("handle of cpu on 7", 7)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubles in place of the libraries, on the CPU."""
    monkeypatch.setattr("qbench_norms_torch.liger._functions", lambda: Liger)
    monkeypatch.setattr("qbench_norms_torch.quack._module", lambda: Quack)
    monkeypatch.setattr("qbench_norms_torch.apex._functions", lambda: Apex)
    monkeypatch.setattr(cudnn_frontend, "_frontend", lambda: Cudnn)
    monkeypatch.setattr(cudnn_frontend, "_handle", lambda device: f"handle of {device} on 7")
    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)


OTHERS = [
    kernel
    for kernel in KERNELS
    if kernel.provider in ("liger", "quack", "apex", "cudnn") and "batch" not in kernel.name
]
CASES = [
    pytest.param(kernel, affine, dtype, id=f"{kernel.name}-{affine}-{dtype}")
    for kernel in OTHERS
    for affine in kernel.affine or kernel.operation.affine
    for dtype in ("float32", "float16")
]


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(("kernel", "affine", "dtype"), CASES)
def test_a_library_is_called_with_what_it_takes(
    kernel: NormKernel, affine: Any, dtype: str
) -> None:
    operation = kernel.operation
    shape = (2, 6, 3, 5) if operation.rank == 4 else (6, 96)
    inputs = operation.inputs(NormProblem(shape, getattr(torch, dtype), affine))
    thunk = kernel.prepare(inputs)
    for _ in range(2):
        outputs, exact = thunk(), operation.exact(inputs)
        assert len(outputs) == len(exact)
        for output, reference in zip(outputs, exact, strict=True):
            assert output.shape == reference.shape
            assert ulp_errors(output, reference, inputs["x"].dtype).max_ulp <= 64


@pytest.mark.usefixtures("libraries")
def test_what_cudnn_has_no_kernel_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise NotSupportedError("no engine")

    monkeypatch.setattr(Graph, "check_support", refuse, raising=False)
    kernel = BY_NAME["rms_norm:cudnn"]
    with pytest.raises(KernelError, match=r"cuDNN 92600 .*\(6, 96\).*float32.*no engine"):
        kernel.prepare(kernel.operation.inputs(NormProblem((6, 96))))


def test_rows_too_long_for_a_library_are_told() -> None:
    for name, dtype, longest in (
        ("rms_norm:liger", "float16", 65536),
        ("layer_norm_backward:liger", "float16", 65536),
        ("rms_norm:quack", "float32", 262144),
        ("add_rms_norm_backward:quack", "float32", 131072),
        ("layer_norm_backward:quack", "bfloat16", 262144),
    ):
        kernel = BY_NAME[name]
        assert not kernel.misfit((128, longest), dtype)
        assert f"up to {longest:,} elements" in kernel.misfit((128, longest + 1), dtype)
    assert not BY_NAME["group_norm:liger"].misfit((1, 8, 3, 10**6), "float32")
    assert not BY_NAME["rms_norm:apex"].misfit((128, 10**6), "float32")


def test_there_are_kernels_of_every_library() -> None:
    assert {kernel.name for kernel in OTHERS} == {
        *(
            f"{norm}{direction}:liger"
            for norm in ("layer_norm", "rms_norm", "add_rms_norm", "group_norm", "dynamic_tanh")
            for direction in ("", "_backward")
        ),
        *(
            f"{norm}{direction}:quack"
            for norm in ("layer_norm", "rms_norm", "add_rms_norm")
            for direction in ("", "_backward")
        ),
        *(
            f"{norm}{direction}:{provider}"
            for provider in ("apex", "cudnn")
            for norm in ("layer_norm", "rms_norm")
            for direction in ("", "_backward")
        ),
    }
