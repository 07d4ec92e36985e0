"""What kernels do not take is refused before a launch, in words; afterwards everything works as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench_norms_cuda import ops
from qbench_suite import SM_90, DeviceError, KernelError, LaunchError, LaunchPlan, emulating

X, W = torch.randn(4, 32), torch.randn(32)
IMAGE, HEADS = torch.randn(2, 3, 32), torch.randn(1, 2, 3, 32)
CONDITION = torch.randn(2, 1, 32)
ALPHA = torch.ones(1)
ELSEWHERE = torch.empty(32, device="meta")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[LaunchPlan]:
    """What has been launched."""
    made: list[LaunchPlan] = []
    call = LaunchPlan.__call__

    def noted(plan: LaunchPlan, arguments: Any) -> None:
        made.append(plan)
        call(plan, arguments)

    monkeypatch.setattr(LaunchPlan, "__call__", noted)
    return made


def a_norm_of(x: Tensor) -> list[Callable[[], object]]:
    """Every function, of an input that it cannot take."""
    weight = torch.ones(max(x.shape[-1], 1), device=x.device)
    alpha = torch.ones(1, device=x.device)
    rows = x.expand(1, 1, *x.shape)
    return [
        lambda: ops.layer_norm(x, weight, weight),
        lambda: ops.rms_norm(x),
        lambda: ops.add_layer_norm(x, x),
        lambda: ops.add_rms_norm(x, x),
        lambda: ops.quantized_layer_norm(x),
        lambda: ops.quantized_rms_norm(x),
        lambda: ops.dynamic_tanh(x, alpha),
        lambda: ops.qk_norm(rows, rows),
    ]


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X.double(), "take float32, float16 and bfloat16; .* is torch.float64; convert"),
        (X.int(), "take float32, float16 and bfloat16; .* is torch.int32; convert"),
        (X.to(torch.float8_e4m3fn), "float8_e4m3fn; convert"),
        (torch.empty(4, 0), r"at least one element; .* has shape \(.*4, 0\); leave"),
    ],
    ids=["float64", "int32", "fp8", "hidden size 0"],
)
def test_an_input_of_no_dtype_or_length_of_kernels(
    x: Tensor, words: str, place: int, launches: list[LaunchPlan]
) -> None:
    with emulating(SM_90), pytest.raises(LaunchError, match=words):
        a_norm_of(x)[place]()
    assert not launches


#: What is called, the error, and words of it.
MISTAKES: dict[str, tuple[Callable[[], object], type[KernelError], str]] = {
    "no axis": (lambda: ops.rms_norm(torch.tensor(1.0)), LaunchError, r"has shape \(\)"),
    "longer weight": (
        lambda: ops.layer_norm(X, torch.ones(33)),
        LaunchError,
        r"weight has one element for each of 32; its shape is \(33,\); pass",
    ),
    "matrix as weight": (lambda: ops.rms_norm(X, torch.ones(1, 32)), LaunchError, r"\(1, 32\)"),
    "float64 weight": (lambda: ops.rms_norm(X, W.double()), LaunchError, "weight is torch.float64"),
    "weight elsewhere": (lambda: ops.rms_norm(X, ELSEWHERE), DeviceError, "weight is on meta"),
    "mixed affine": (
        lambda: ops.layer_norm(X, W, W.half()),
        LaunchError,
        "bias is torch.float16, weight is torch.float32; pass both",
    ),
    "bias alone": (lambda: ops.layer_norm(X, None, W), LaunchError, "weight is None"),
    "other residual": (
        lambda: ops.add_rms_norm(X, X[:1]),
        LaunchError,
        r"residual has the shape of the input, \(4, 32\); its shape is \(1, 32\)",
    ),
    "mixed residual": (
        lambda: ops.add_rms_norm(X, X.half()),
        LaunchError,
        r"torch.float32; it is torch.float16; convert it with .to\(torch.float32\)",
    ),
    "residual elsewhere": (
        lambda: ops.add_rms_norm(X, X.to("meta")),
        DeviceError,
        "residual is on meta, the input on cpu; move",
    ),
    "condition of a matrix": (
        lambda: ops.adaptive_layer_norm(X, CONDITION, CONDITION),
        LaunchError,
        r"\(B, T, N\); the input has shape \(4, 32\); reshape",
    ),
    "condition without tokens": (
        lambda: ops.adaptive_layer_norm(IMAGE, CONDITION[:, 0], CONDITION[:, 0]),
        LaunchError,
        r"scale has shape \(2, 1, 32\) or \(2, 3, 32\).*its shape is \(2, 32\); unsqueeze",
    ),
    "mixed gate": (
        lambda: ops.gated_adaptive_layer_norm(IMAGE, IMAGE, CONDITION.half(), CONDITION, CONDITION),
        LaunchError,
        "gate has the dtype",
    ),
    "negative eps": (lambda: ops.rms_norm(X, eps=-1e-6), LaunchError, "not negative; it is -1e-06"),
    "eps of NaN": (lambda: ops.layer_norm(X, eps=math.nan), LaunchError, "it is nan; use"),
    "infinite eps": (lambda: ops.qk_norm(HEADS, HEADS, eps=math.inf), LaunchError, "it is inf"),
    "g of another length": (
        lambda: ops.weight_norm(X, torch.ones(5)),
        LaunchError,
        r"g has one element for each of 4 rows of v; its shape is \(5,\)",
    ),
    "a vector to be weight-normalized": (
        lambda: ops.weight_norm(W, W),
        LaunchError,
        r"v has shape \(32,\); give it a second axis",
    ),
    "a number to be weight-normalized": (
        lambda: ops.weight_norm(ALPHA[0], ALPHA),
        LaunchError,
        r"v has shape \(\)",
    ),
    "a number as scale": (
        lambda: ops.quantized_rms_norm(X, mode="static", scale=0.5),  # type: ignore[arg-type]
        LaunchError,
        "dense tensors; scale is a float; pass a tensor",
    ),
    "a number as alpha": (
        lambda: ops.dynamic_tanh(X, 0.5),  # type: ignore[arg-type]
        LaunchError,
        "alpha is a float; pass a tensor",
    ),
    "sparse input": (
        lambda: ops.layer_norm(X.to_sparse()),
        LaunchError,
        "x is a tensor of layout torch.sparse_coo; convert",
    ),
    "sparse residual": (
        lambda: ops.add_rms_norm(X, X.to_sparse()),
        LaunchError,
        "residual is a tensor of layout torch.sparse_coo; convert",
    ),
    "l2 with a bias": (
        lambda: torch.ops.qbench_norms.row_norm(X, "l2", 0.0, W[:4], W[:4], 0.0, *[None] * 4),
        LaunchError,
        "'l2' have a weight and nothing else; given are bias; leave",
    ),
    "l2 with a condition": (
        lambda: torch.ops.qbench_norms.row_norm(
            IMAGE, "l2", 0.0, None, None, 0.0, None, None, CONDITION, CONDITION
        ),
        LaunchError,
        "given are scale and shift; leave",
    ),
    "unknown mode": (
        lambda: ops.quantized_rms_norm(X, mode="block"),
        LaunchError,
        "fp8_e4m3-chunk128, .*; fp8_e4m3-block is none; choose",
    ),
    "no static scale": (
        lambda: ops.quantized_rms_norm(X, mode="static"),
        LaunchError,
        "the scale missing; pass",
    ),
    "needless scale": (
        lambda: ops.quantized_rms_norm(X, scale=torch.ones(1)),
        LaunchError,
        "mode is 'token', the scale given",
    ),
    "scale of half": (
        lambda: ops.quantized_rms_norm(X, mode="static", scale=torch.ones(1).half()),
        LaunchError,
        "one float32 number; it is torch.float16",
    ),
    "scale elsewhere": (
        lambda: ops.quantized_rms_norm(X, mode="static", scale=torch.ones(1, device="meta")),
        DeviceError,
        "scale is on meta",
    ),
    "two alphas": (lambda: ops.dynamic_tanh(X, torch.ones(2)), LaunchError, "alpha is one number"),
    "alpha of float64": (
        lambda: ops.dynamic_tanh(X, ALPHA.double()),
        LaunchError,
        "alpha is torch.f",
    ),
    "alpha elsewhere": (
        lambda: ops.dynamic_tanh(X, torch.ones(1, device="meta")),
        DeviceError,
        "alpha is on meta",
    ),
    "heads of three axes": (lambda: ops.qk_norm(HEADS[0], HEADS[0]), LaunchError, "q has shape"),
    "heads of another width": (
        lambda: ops.qk_norm(HEADS, HEADS[..., :8]),
        LaunchError,
        "k has shape",
    ),
    "wide heads": (
        lambda: ops.qk_norm(*[torch.ones(1, 1, 1, 513)] * 2),
        LaunchError,
        "up to 512.*or use rms_norm",
    ),
    "mixed heads": (lambda: ops.qk_norm(HEADS, HEADS.half()), LaunchError, "k has the dtype"),
    "mixed head weights": (
        lambda: ops.qk_norm(HEADS, HEADS, W, W.half()),
        LaunchError,
        "k_weight has the dtype",
    ),
    "unknown statistic": (
        lambda: torch.ops.qbench_norms.row_norm(X, "max", 0.0, *[None] * 2, 0.0, *[None] * 4),
        LaunchError,
        "'layer', 'rms' or 'l2'; the statistic is 'max'",
    ),
    "scale without shift": (
        lambda: torch.ops.qbench_norms.row_norm(
            IMAGE, "layer", 0.0, None, None, 0.0, None, None, CONDITION, None
        ),
        LaunchError,
        "scale and shift",
    ),
    "gate without residual": (
        lambda: torch.ops.qbench_norms.row_norm(
            IMAGE, "layer", 0.0, None, None, 0.0, None, CONDITION, None, None
        ),
        LaunchError,
        "gate",
    ),
    "weight and scale": (
        lambda: torch.ops.qbench_norms.row_norm(
            IMAGE, "layer", 0.0, W, None, 0.0, None, None, CONDITION, CONDITION
        ),
        LaunchError,
        "weight",
    ),
    "gradient of another shape": (
        lambda: torch.ops.qbench_norms.row_norm_backward(
            X[:2], X, "rms", None, torch.ones(4), None, 0.0, None, None, ["dx"]
        ),
        LaunchError,
        "dy has the shape",
    ),
    "rstd of another length": (
        lambda: torch.ops.qbench_norms.row_norm_backward(
            X, X, "rms", None, torch.ones(3), None, 0.0, None, None, ["dx"]
        ),
        LaunchError,
        "rstd has one element for each of 4",
    ),
    "unknown gradient": (
        lambda: torch.ops.qbench_norms.row_norm_backward(
            X, X, "rms", None, torch.ones(4), None, 0.0, None, None, ["dq"]
        ),
        LaunchError,
        "'dq'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_arguments_that_do_not_fit(mistake: str, launches: list[LaunchPlan]) -> None:
    call, error, words = MISTAKES[mistake]
    with emulating(SM_90):
        with pytest.raises(error, match=words) as caught:
            call()
        assert not launches
        assert torch.equal(ops.rms_norm(X), ops.rms_norm(X.clone()))
    message = str(caught.value)
    assert message.count("; ") >= 2, "invariant; what was received; remedy"
    assert message.endswith(".")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_on_a_device_without_kernels(device: str) -> None:
    x = torch.ones(2, 32, device=device)
    for call in (*a_norm_of(x), lambda: ops.weight_norm(x, x[:, 0])):
        with pytest.raises(DeviceError, match=f"the tensors are on '{device}'"):
            call()
    with pytest.raises(DeviceError, match="emulating"):
        torch.ops.qbench_norms.dynamic_tanh(X, ALPHA, None, None)


def test_no_rows_on_a_device_without_kernels() -> None:
    """An empty batch is no way around the device."""
    for call in a_norm_of(torch.ones(0, 32))[:7]:
        with pytest.raises(DeviceError):
            call()
