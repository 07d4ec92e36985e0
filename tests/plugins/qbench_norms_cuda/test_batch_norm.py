"""BatchNorm: against float64 and torch, in both memory orders, in training, inference and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_norms_cuda import images as raw
from qbench_norms_cuda.image_checks import SingleValueError
from qbench_norms_cuda.image_launch import SOURCES, ImageNorm
from qbench_norms_cuda.ops.batch import BATCH_NORM, BATCH_NORM_INFERENCE
from qbench_norms_cuda.ops.images import KERNELS, batch_norm
from qbench_suite import (
    SM_80,
    SM_90,
    SM_100,
    Architecture,
    CudaSource,
    DeviceError,
    LaunchError,
    NormKernel,
    NormProblem,
    emulating,
    guarded,
    inspect_function,
    inspection_unavailable,
    ulp_errors,
)

BATCH = [kernel for kernel in KERNELS if kernel.operation.name.startswith("batch")]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: A row of vectors that do not end with it, whole vectors, and planes of several blocks.
SHAPES = ((2, 6, 5, 7), (3, 32, 8, 8), (1, 2, 70, 70))
#: Errors in ulps of float32 that a few roundings make: no kernel without double can have less.
ROUNDINGS = {"forward": 2.5, "backward": 8.0}
EPS = 1e-5


def name_of(value: object) -> str | None:
    if isinstance(value, NormKernel):
        return value.operation.name
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def exact(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized values, mean and biased variance of each channel, in float64."""
    x = x.double()
    axes = [0, *range(2, x.dim())]
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (var + EPS).sqrt(), mean.flatten(), var.flatten()


def normalized(x: Tensor) -> Tensor:
    return raw.batch_norm_training(x, None, None, None, 0.1, EPS)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("kernel", BATCH, ids=name_of)
def test_errors_are_within_the_tolerance_and_no_more_than_torchs(
    kernel: NormKernel, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    operation = kernel.operation
    inputs = operation.inputs(NormProblem(shape, dtype, device=device))
    made = kernel.prepare(inputs)()
    for output, reference, torchs in zip(
        made, operation.exact(inputs), operation.eager(inputs)(), strict=True
    ):
        error, peer = ulp_errors(output, reference), ulp_errors(torchs, reference)
        few = ROUNDINGS[operation.direction] if output.dtype == torch.float32 else 0.51
        tolerance = operation.tolerance_ulps[str(output.dtype).removeprefix("torch.")]
        assert output.dtype == torchs.dtype
        assert output.stride() == torchs.stride()
        assert error.nonfinite == 0
        assert error.max_ulp <= min(tolerance, max(peer.max_ulp, few))


@pytest.mark.parametrize("affine", ["weight", "none"])
@pytest.mark.parametrize("kernel", BATCH, ids=name_of)
def test_affine_tensors_may_be_left_out(
    kernel: NormKernel, affine: str, device: torch.device
) -> None:
    operation = kernel.operation
    problem = NormProblem((2, 6, 5, 7), affine=affine, device=device)  # type: ignore[arg-type]
    inputs = operation.inputs(problem)
    made, references = kernel.prepare(inputs)(), operation.exact(inputs)
    assert len(made) == len(references)
    for output, reference in zip(made, references, strict=True):
        assert ulp_errors(output, reference).max_ulp <= operation.tolerance_ulps["float32"]


@pytest.mark.parametrize("shape", [(5, 6), (4, 6, 9), (2, 6, 3, 2, 5)], ids=name_of)
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_any_number_of_axes(last: bool, shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.randn(shape, device=device)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    y = normalized(x)
    assert y.stride() == x.stride()
    assert ulp_errors(y, exact(x)[0]).max_ulp <= 4


def test_many_blocks_add_up_columns_in_two_stages(device: torch.device) -> None:
    x = torch.randn(1, 256, 34, 34, device=device).to(memory_format=torch.channels_last)
    call = ImageNorm.of("batch_norm", x, 1)
    assert call.plan.fan > 1
    assert call.plan.parts % call.plan.fan
    assert ulp_errors(normalized(x), exact(x)[0]).max_ulp <= 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_large_mean_costs_no_accuracy(layout: torch.memory_format, device: torch.device) -> None:
    x = (torch.randn(3, 32, 8, 8, device=device) + 1e6).to(memory_format=layout)
    y, mean, var = exact(x)
    running = torch.zeros(32, device=device), torch.ones(32, device=device)
    made, _ = raw.batch_norm_training(x, None, None, running, 1.0, EPS)
    assert ulp_errors(made, y).max_ulp <= 4
    assert ulp_errors(running[0], mean).max_ulp <= 1
    assert ulp_errors(running[1], var * (192 / 191)).max_ulp <= 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_outlier_in_front_costs_no_accuracy(
    layout: torch.memory_format, device: torch.device
) -> None:
    x = torch.randn(3, 32, 8, 8, device=device)
    x[0, :, 0, 0] = 1e4
    x = x.to(memory_format=layout)
    assert ulp_errors(normalized(x), exact(x)[0]).max_ulp <= 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e18])
def test_huge_and_tiny_values(
    layout: torch.memory_format, scale: float, device: torch.device
) -> None:
    x = torch.randn(3, 32, 8, 8, device=device).mul(scale).to(memory_format=layout)
    assert ulp_errors(normalized(x), exact(x)[0]).max_ulp <= 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 8, 8), (2, 6, 5, 7), (1, 6, 40, 40)], ids=name_of)
@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e25])
def test_without_eps_no_square_underflows_or_overflows(
    layout: torch.memory_format, shape: tuple[int, ...], scale: float, device: torch.device
) -> None:
    x = (torch.randn(shape, device=device) * scale).to(memory_format=layout).requires_grad_()
    weight = torch.randn(6, device=device, requires_grad=True)
    dy = torch.randn(shape, device=device) * 1e-3
    doubles = [t.detach().double().requires_grad_() for t in (x, weight)]
    y = batch_norm(x, None, None, weight, training=True, eps=0.0)
    expected = F.batch_norm(doubles[0], None, None, doubles[1], training=True, eps=1e-300)
    made = (y.detach(), *torch.autograd.grad(y, [x, weight], dy))
    references = (expected.detach(), *torch.autograd.grad(expected, doubles, dy.double()))
    for output, reference in zip(made, references, strict=True):
        assert (output - reference).abs().max() <= 4e-7 * reference.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_a_constant_channel_gives_the_bias(
    layout: torch.memory_format, value: float, device: torch.device
) -> None:
    x = torch.full((3, 32, 8, 8), value, device=device).to(memory_format=layout)
    weight, bias = torch.randn(2, 32, device=device)
    y = batch_norm(x, None, None, weight, bias, training=True)
    torch.testing.assert_close(y, bias.view(1, -1, 1, 1).expand_as(y), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 5)], ids=["first", "inner"])
def test_what_is_not_finite_spoils_its_channel_only(
    layout: torch.memory_format, value: float, place: tuple[int, int], device: torch.device
) -> None:
    x = torch.randn(3, 32, 8, 8, device=device).to(memory_format=layout)
    spoiled = x.clone()
    spoiled[0, 7, *place] = value
    y, clean = normalized(spoiled), normalized(x)
    assert y[:, 7].isnan().all()
    others = [c for c in range(32) if c != 7]
    assert torch.equal(y[:, others], clean[:, others])


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_nothing_is_touched_beyond_the_tensors(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("pages are guarded on the CPU")
    x = torch.randn(2, 6, 5, 7).to(dtype)
    for before in (False, True):
        for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
            held = guarded(x.permute(order).contiguous(), before=before)
            held = held.permute([order.index(axis) for axis in range(4)])
            assert held.stride(1) == (35 if order[1] == 1 else 1)
            assert ulp_errors(normalized(held), exact(x)[0]).max_ulp <= 4
            dx, dweight, _ = raw.image_norm_backward(
                *(
                    "batch_norm",
                    held,
                    held,
                    raw.batch_norm_training(x, None, None, None, 0.1, EPS)[1],
                ),
                None,
                dweight=torch.float32,
            )
            assert dx.isfinite().all()
            assert dweight is not None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_misaligned_base_gives_the_same_bits(
    layout: torch.memory_format, device: torch.device
) -> None:
    x = torch.randn(3, 32, 8, 8, device=device, dtype=torch.float16).to(memory_format=layout)
    shifted = torch.empty(x.numel() + 1, device=device, dtype=x.dtype)[1:].as_strided(
        x.shape, x.stride()
    )
    shifted.copy_(x)
    assert shifted.data_ptr() % 16
    assert torch.equal(normalized(shifted), normalized(x))


def test_strided_images_are_copied(device: torch.device) -> None:
    x = torch.randn(4, 12, 6, 5, device=device)[::2, ::2].transpose(2, 3)
    assert ulp_errors(normalized(x), exact(x)[0]).max_ulp <= 4
    dy = torch.ones(1, device=device).expand(x.shape)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(batch_norm(leaf, training=True), [leaf], dy)
    torch.testing.assert_close(gradient, torch.zeros_like(x), rtol=0, atol=1e-6)


def test_running_statistics_follow_torchs_module(device: torch.device) -> None:
    module = torch.nn.BatchNorm2d(6, momentum=None, device=device)
    mean, var = torch.zeros(6, device=device), torch.ones(6, device=device)
    for batch in range(1, 4):
        x = torch.randn(3, 6, 5, 7, device=device) * batch
        module(x)
        batch_norm(x, mean, var, training=True, momentum=1 / batch)
    torch.testing.assert_close(mean, module.running_mean)
    torch.testing.assert_close(var, module.running_var)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    "dtypes", [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)]
)
def test_gradients_through_autograd(
    training: bool, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device
) -> None:
    images, parameters = dtypes
    x = torch.randn(3, 32, 8, 8, device=device).to(images).requires_grad_()
    weight, bias = (torch.randn(32, device=device).to(parameters).requires_grad_() for _ in "wb")
    running = [torch.randn(32, device=device), torch.rand(32, device=device) + 0.5]
    y = batch_norm(x, *(r.clone() for r in running), weight, bias, training=training)
    assert y.dtype == images
    dy = torch.randn(3, 32, 8, 8, device=device).to(images)
    made = torch.autograd.grad(y, [x, weight, bias], dy)
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    reference = F.batch_norm(
        leaves[0], *(r.double() for r in running), leaves[1], leaves[2], training=training
    )
    for gradient, leaf, expected in zip(
        made, (x, weight, bias), torch.autograd.grad(reference, leaves, dy.double()), strict=True
    ):
        assert gradient.dtype == leaf.dtype
        assert ulp_errors(gradient, expected).max_ulp <= (8 if leaf.dtype == torch.float32 else 1)


def test_by_running_statistics_the_gradient_does_not_read_x(device: torch.device) -> None:
    x = torch.full((3, 32, 8, 8), torch.inf, device=device, requires_grad=True)
    ones = torch.ones(32, device=device)
    y = batch_norm(x, ones, ones, 2 * ones)
    (dx,) = torch.autograd.grad(y, [x], torch.ones_like(y))
    torch.testing.assert_close(dx, torch.full_like(x, 2 / (1 + EPS) ** 0.5))


def test_two_runs_have_the_same_bits_and_leave_counters_at_zero(device: torch.device) -> None:
    x = torch.randn(1, 2, 70, 70, device=device)
    call = ImageNorm.of("batch_norm", x, 1)
    assert call.plan.parts > 1
    y, statistics = torch.empty_like(x), x.new_empty(2, 4)
    call.fill(y, statistics=statistics, eps=EPS)
    call.run()
    assert not call.memory[1].any()
    assert torch.equal(normalized(x), normalized(x))


@pytest.mark.parametrize("shape", [(0, 6, 5, 7), (2, 6, 0, 7), (0, 6)], ids=name_of)
def test_an_empty_batch(shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.empty(shape, device=device, requires_grad=True)
    weight = torch.ones(6, device=device, requires_grad=True)
    mean, var = torch.full((2, 6), 3.0, device=device)
    y = batch_norm(x, mean, var, weight, training=True)
    assert y.shape == x.shape
    assert mean.eq(3).all()
    assert var.eq(3).all()
    dx, dweight = torch.autograd.grad(y.sum(), [x, weight])
    assert dx.shape == x.shape
    assert not dweight.any()
    assert batch_norm(x, mean, var).shape == x.shape


def test_an_empty_batch_is_on_a_device_with_kernels_too() -> None:
    x, ones = torch.empty(0, 6, 5, 7), torch.ones(6)
    for training in (False, True):
        with pytest.raises(DeviceError):
            batch_norm(x, ones, ones, training=training)


def test_a_dispatched_call_is_the_same(device: torch.device) -> None:
    x = torch.randn(3, 32, 8, 8, device=device, requires_grad=True)
    weight, bias, mean = torch.randn(3, 32, device=device)
    var = torch.rand(32, device=device)
    torch.library.opcheck(BATCH_NORM.overload, (x, weight, bias, mean, var, 0.1, EPS))
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(BATCH_NORM_INFERENCE.overload, (last, weight, None, mean, var, EPS))


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    x, ones = torch.randn(3, 6, 5, 7, device=device), torch.ones(6, device=device)
    with pytest.raises(SingleValueError, match=r"more than one value a channel.*\(1, 6, 1, 1\)"):
        batch_norm(x[:1, :, :1, :1], training=True)
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm(x[:1, :, 0, 0], training=True)
    with pytest.raises(LaunchError, match="running_var is None"):
        batch_norm(x, ones, training=True)
    with pytest.raises(LaunchError, match="without training, the running statistics"):
        batch_norm(x)
    with pytest.raises(LaunchError, match="momentum is the share"):
        batch_norm(x, ones, ones, training=True, momentum=float("nan"))
    with pytest.raises(LaunchError, match="it is None; for a cumulative average pass 1 / number"):
        batch_norm(x, ones, ones, training=True, momentum=None)  # type: ignore[arg-type]
    with pytest.raises(LaunchError, match=r"weight has one element for each of 6"):
        batch_norm(x, ones, ones, ones[:5])
    with pytest.raises(LaunchError, match=r"axes \(N, C, ...\)"):
        batch_norm(x[:, :0], training=True)
    with pytest.raises(LaunchError, match="float64"):
        batch_norm(x.double(), training=True)


@pytest.mark.parametrize("architecture", [SM_80, SM_90, SM_100], ids=str)
@pytest.mark.parametrize(
    ("kernel", "registers"),
    [
        ("plane_norm<{}, false>", 80),
        ("plane_norm<{}, true>", 80),
        ("plane_sums<{}, false>", 80),
        ("plane_sums<{}, true>", 80),
        ("column_sums<{}, false>", 80),
        ("column_sums<{}, true>", 80),
        ("plane_apply<{}, Normalize>", 64),
        ("plane_apply<{}, Backpropagate>", 64),
        ("plane_apply<{}, UseRunning>", 64),
        ("column_apply<{}, Normalize>", 80),
        ("column_apply<{}, Backpropagate>", 80),
        ("column_apply<{}, UseRunning>", 80),
    ],
)
def test_what_is_compiled_does_not_spill(
    kernel: str, registers: int, architecture: Architecture
) -> None:
    if reason := inspection_unavailable():
        pytest.skip(reason)
    source: CudaSource = SOURCES["batch_norm"]
    used = inspect_function(
        source.function(kernel.format("BatchNorm, __nv_bfloat16, 8")), architecture
    )
    assert (used.spill_bytes, used.stack_bytes) == (0, 0)
    assert used.registers <= registers
    assert used.wide_loads >= 4
    assert used.wide_stores >= ("sums" not in kernel)


def test_sm_80_gives_the_same_bits() -> None:
    x = torch.randn(2, 6, 5, 7)
    made = []
    for architecture in (SM_80, SM_90):
        with emulating(architecture):
            made.append(normalized(x))
    assert torch.equal(*made)
