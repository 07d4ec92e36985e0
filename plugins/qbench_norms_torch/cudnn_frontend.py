"""LayerNorm and RMSNorm of cuDNN, by the graphs of its Python frontend.

The graphs are those of https://docs.nvidia.com/cudnn, Normalizations: x and y are (rows, N, 1, 1), weight
and bias (1, N, 1, 1), statistics (rows, 1, 1, 1) in float32.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from qbench_norms_torch.entries import (
    HAS_CUDA,
    TOLERANCE,
    Inputs,
    Outputs,
    Thunk,
    installed,
    needing,
)
from qbench_suite import NORM_OPERATIONS, KernelError, NormKernel

unavailable = needing("cudnn", "pip install nvidia-cudnn-frontend")


def _frontend() -> Any:
    return importlib.import_module("cudnn")


@functools.cache
def _handle(device: torch.device) -> Any:
    with torch.cuda.device(device):
        return _frontend().create_handle()


class _Graph:
    """A graph of one norm: its inputs are bound to tensors, its outputs made anew in each call."""

    def __init__(self, x: Tensor) -> None:
        cudnn = _frontend()
        self.x = x
        self.types = {
            torch.float32: cudnn.data_type.FLOAT,
            torch.float16: cudnn.data_type.HALF,
            torch.bfloat16: cudnn.data_type.BFLOAT16,
        }
        self.graph = cudnn.pygraph(
            io_data_type=self.types[x.dtype],
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=_handle(x.device),
        )
        self.bound: dict[Any, Tensor] = {}
        self.outputs: list[tuple[Any, Tensor]] = []

    def given(self, name: str, tensor: Tensor, dim: tuple[int, ...]) -> Any:
        """An input; ``dim`` without the last two axes, which have length 1."""
        width = dim[1]
        node = self.graph.tensor(
            name=name,
            dim=[*dim, 1, 1],
            stride=[width, 1, width, width],
            data_type=self.types[tensor.dtype],
        )
        self.bound[node] = tensor
        return node

    def number(self, name: str, value: float) -> Any:
        """A float32 that the host passes."""
        node = self.graph.tensor(
            name=name,
            dim=[1] * 4,
            stride=[1] * 4,
            data_type=self.types[torch.float32],
            is_pass_by_value=True,
        )
        self.bound[node] = torch.full((1, 1, 1, 1), value, dtype=torch.float32)
        return node

    def gives(self, node: Any, like: Tensor) -> None:
        """Name an output of the shape and dtype of ``like``."""
        node.set_output(True).set_data_type(self.types[like.dtype])
        self.outputs.append((node, like))

    def thunk(self) -> Thunk:
        """Build the graph; raises ``KernelError`` where cuDNN has no kernel for it."""
        cudnn, graph = _frontend(), self.graph
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.check_support()
            graph.build_plans()
        except cudnn.cudnnGraphNotSupportedError as error:
            shape, dtype = tuple(self.x.shape), self.x.dtype
            raise KernelError(
                f"cuDNN {cudnn.backend_version()} has a kernel for a norm, or it is not measured; it "
                f"has none for {shape} in {dtype}: {error}. Leave that case out."
            ) from None
        return functools.partial(self._run, self._workspace())

    def _workspace(self) -> Tensor:
        size = max(self.graph.get_workspace_size(), 1)
        return torch.empty(size, dtype=torch.uint8, device=self.x.device)

    def _run(self, workspace: Tensor) -> Outputs:
        handle = _handle(self.x.device)
        stream = torch.cuda.current_stream(self.x.device).cuda_stream
        _frontend().set_stream(handle=handle, stream=stream)
        made = [(node, torch.empty_like(like)) for node, like in self.outputs]
        self.graph.execute({**self.bound, **dict(made)}, workspace, handle=handle)
        return tuple(tensor for _, tensor in made)


def _forward(inputs: Inputs) -> Thunk:
    x, weight, bias = inputs["x"], inputs["weight"], inputs.get("bias")
    rows, width = x.shape
    made = _Graph(x)
    given: dict[str, Any] = {
        "norm_forward_phase": _frontend().norm_forward_phase.INFERENCE,
        "input": made.given("x", x, (rows, width)),
        "scale": made.given("weight", weight, (1, width)),
        "epsilon": made.number("eps", inputs["eps"]),
    }
    if bias is None:
        y = made.graph.rmsnorm(name="norm", **given)[0]
    else:
        given["bias"] = made.given("bias", bias, (1, width))
        y = made.graph.layernorm(name="norm", **given)[0]
    made.gives(y, x)
    return made.thunk()


def _backward(inputs: Inputs) -> Thunk:
    x, weight, bias = inputs["x"], inputs["weight"], inputs.get("bias")
    rows, width = x.shape
    mean, rstd = _statistics(x, inputs["eps"], centred=bias is not None)
    made = _Graph(x)
    given: dict[str, Any] = {
        "grad": made.given("dy", inputs["dy"], (rows, width)),
        "input": made.given("x", x, (rows, width)),
        "scale": made.given("weight", weight, (1, width)),
        "inv_variance": made.given("rstd", rstd, (rows, 1)),
    }
    if bias is None:
        dx, dweight, _ = made.graph.rmsnorm_backward(name="norm", has_dbias=False, **given)
    else:
        given["mean"] = made.given("mean", mean, (rows, 1))
        dx, dweight, dbias = made.graph.layernorm_backward(name="norm", **given)
    made.gives(dx, x)
    made.gives(dweight, weight)
    if bias is not None:
        made.gives(dbias, bias)
    return made.thunk()


def _statistics(x: Tensor, eps: float, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation of rows, as a forward would have saved them."""
    exact = x.double()
    mean = exact.mean(1, keepdim=True)
    moment = (exact - mean if centred else exact).square().mean(1)
    return mean[:, 0].float(), (moment + eps).rsqrt().float()


_AFFINE: dict[str, Any] = {"layer_norm": ("weight_bias",), "rms_norm": ("weight",)}
KERNELS = tuple(
    NormKernel(
        provider="cudnn",
        operation=NORM_OPERATIONS[f"{norm}{direction}"],
        prepare=prepare,
        affine=affine,
        unavailable=unavailable,
        tolerance_ulps=TOLERANCE["backward" if direction else "forward"],
        description="cuDNN's, by its Python frontend",
        default=HAS_CUDA and installed("cudnn"),
    )
    for norm, affine in _AFFINE.items()
    for direction, prepare in (("", _forward), ("_backward", _backward))
)
