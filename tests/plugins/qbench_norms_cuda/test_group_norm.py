"""GroupNorm and InstanceNorm: against float64 and torch, on chip, split over blocks, and channels last."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qbench_norms_cuda import image_launch, image_plan
from qbench_norms_cuda import images as raw
from qbench_norms_cuda.image_launch import SOURCES, ImageNorm
from qbench_norms_cuda.image_plan import resident_plan
from qbench_norms_cuda.ops.group import GROUP_NORM
from qbench_norms_cuda.ops.image_backward import IMAGE_NORM_BACKWARD
from qbench_norms_cuda.ops.images import KERNELS, group_norm, instance_norm
from qbench_suite import (
    SM_80,
    SM_90,
    Architecture,
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

GROUP = [kernel for kernel in KERNELS if kernel.operation.name.startswith("group")]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((2, 6, 5, 7), (3, 32, 8, 8), (1, 64, 15, 17))
#: Errors in ulps of float32 that a few roundings make: no kernel without double can have less.
ROUNDINGS = {"forward": 2.5, "backward": 8.0}
EPS = 1e-5
#: Where a group is: in shared memory, split over blocks, or in columns.
PATHS = ("resident", "split", "columns")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the kernel of a path the one that is used; images are laid out by ``laid``."""
    if request.param == "split":
        monkeypatch.setattr(raw, "resident_plan", lambda *_: None)
    return str(request.param)


def laid(x: Tensor, path: str) -> Tensor:
    return x.to(memory_format=torch.channels_last) if path == "columns" else x


def name_of(value: object) -> str | None:
    if isinstance(value, NormKernel):
        return value.operation.name
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def exact(x: Tensor, groups: int) -> Tensor:
    rows = x.double().reshape(x.shape[0], groups, -1)
    var, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    return ((rows - mean) / (var + EPS).sqrt()).reshape(x.shape)


def normalized(x: Tensor, groups: int) -> Tensor:
    return raw.group_norm_forward(x, groups, None, None, EPS)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("kernel", GROUP, ids=name_of)
def test_errors_are_within_the_tolerance_and_no_more_than_torchs(
    kernel: NormKernel, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    operation = kernel.operation
    inputs = operation.inputs(NormProblem(shape, dtype, device=device))
    for output, reference, torchs in zip(
        kernel.prepare(inputs)(), operation.exact(inputs), operation.eager(inputs)(), strict=True
    ):
        error, peer = ulp_errors(output, reference), ulp_errors(torchs, reference)
        few = ROUNDINGS[operation.direction] if output.dtype == torch.float32 else 0.51
        tolerance = operation.tolerance_ulps[str(output.dtype).removeprefix("torch.")]
        assert output.dtype == torchs.dtype
        assert output.stride() == torchs.stride()
        assert error.nonfinite == 0
        assert error.max_ulp <= min(tolerance, max(peer.max_ulp, few))


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 40])
@pytest.mark.parametrize("shape", [(2, 40, 5, 7), (2, 40, 3), (3, 40)], ids=name_of)
def test_any_number_of_groups_and_axes(
    path: str, shape: tuple[int, ...], groups: int, device: torch.device
) -> None:
    x = torch.randn(shape, device=device)
    x = laid(x, path) if x.dim() == 4 else x
    weight, bias = torch.randn(2, 40, device=device)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    doubles = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = group_norm(leaves[0], groups, *leaves[1:], EPS)
    expected = F.group_norm(doubles[0], groups, *doubles[1:], EPS)
    assert ulp_errors(y.detach(), expected.detach()).max_ulp <= 4
    if x.dim() == 2 and groups == 40:
        return  # the gradient is zero but for eps
    dy = torch.randn(shape, device=device)
    made = torch.autograd.grad(y, leaves, dy)
    for gradient, reference in zip(
        made, torch.autograd.grad(expected, doubles, dy.double()), strict=True
    ):
        assert ulp_errors(gradient, reference).max_ulp <= 32


@pytest.mark.parametrize(("groups", "cluster"), [(4, 2), (2, 4), (1, 8)])
def test_a_group_is_held_by_a_cluster(groups: int, cluster: int, device: torch.device) -> None:
    x = torch.randn(2, 8, 64, 65, device=device)
    plan = resident_plan(8 // groups * 64 * 65, 4, SM_90)
    assert plan is not None
    assert plan.cluster == cluster
    y = group_norm(x, groups, torch.full((8,), 2.0, device=device), eps=EPS)
    assert ulp_errors(y, 2 * exact(x, groups)).max_ulp <= 4
    assert torch.equal(y, group_norm(x, groups, torch.full((8,), 2.0, device=device), eps=EPS))


def test_what_does_not_fit_on_chip_is_split(device: torch.device) -> None:
    assert resident_plan(1 << 24, 4, SM_90) is None
    assert resident_plan(1 << 16, 4, SM_80) is None
    x = torch.randn(1, 2, 150, 150, device=device)
    with emulating(SM_80):
        if device.type == "cpu":
            assert ulp_errors(normalized(x, 1), exact(x, 1)).max_ulp <= 4


@pytest.mark.parametrize("case", ["large mean", "outlier", "huge", "tiny"])
def test_numbers_that_are_hard(path: str, case: str, device: torch.device) -> None:
    x = torch.randn(3, 32, 8, 8, device=device)
    if case == "large mean":
        x += 1e6
    elif case == "outlier":
        x[:, ::8, 0, 0] = 1e4
    else:
        x *= 1e30 if case == "huge" else 1e-30
    assert ulp_errors(normalized(laid(x, path), 4), exact(x, 4)).max_ulp <= 4


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e-21, 1.0, 1e25])
@pytest.mark.parametrize("shape", [(2, 8, 6, 6), (2, 8, 5, 7)], ids=name_of)
def test_without_eps_no_square_underflows_or_overflows(
    path: str, shape: tuple[int, ...], scale: float, device: torch.device
) -> None:
    x = laid(torch.randn(shape, device=device) * scale, path).requires_grad_()
    weight = torch.randn(8, device=device, requires_grad=True)
    dy = torch.randn(shape, device=device) * 1e-3
    doubles = [t.detach().double().requires_grad_() for t in (x, weight)]
    y = group_norm(x, 2, weight, eps=0.0)
    expected = F.group_norm(doubles[0], 2, doubles[1], eps=0.0)
    made = (y.detach(), *torch.autograd.grad(y, [x, weight], dy))
    references = (expected.detach(), *torch.autograd.grad(expected, doubles, dy.double()))
    for output, reference in zip(made, references, strict=True):
        assert (output - reference).abs().max() <= 4e-7 * reference.abs().max()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_a_constant_group_gives_the_bias(path: str, value: float, device: torch.device) -> None:
    x = laid(torch.full((3, 32, 8, 8), value, device=device), path)
    weight, bias = torch.randn(2, 32, device=device)
    y = group_norm(x, 4, weight, bias)
    torch.testing.assert_close(y, bias.view(1, -1, 1, 1).expand_as(y), rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(8, 0, 0), (13, 3, 5)], ids=["first", "inner"])
def test_what_is_not_finite_spoils_its_group_only(
    path: str, value: float, place: tuple[int, int, int], device: torch.device
) -> None:
    x = laid(torch.randn(3, 32, 8, 8, device=device), path)
    spoiled = x.clone()
    spoiled[1, *place] = value
    y, clean = normalized(spoiled, 4), normalized(x, 4)
    assert y[1, 8:16].isnan().all()
    y[1, 8:16] = clean[1, 8:16]
    assert torch.equal(y, clean)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_has_the_same_bits_in_any_batch(
    path: str, batch: int, device: torch.device
) -> None:
    x = laid(torch.randn(7, 6, 5, 7, device=device), path)
    weight = torch.randn(6, device=device)
    dy = laid(torch.randn(7, 6, 5, 7, device=device), path)
    y, statistics = raw.group_norm_forward(x, 3, weight, None, EPS)
    dx, *_ = raw.image_norm_backward("group_norm", dy, x, statistics, weight, groups=3)
    part, of_part = raw.group_norm_forward(x[2 : 2 + batch], 3, weight, None, EPS)
    rest = ("group_norm", dy[2 : 2 + batch], x[2 : 2 + batch], of_part, weight)
    assert torch.equal(part, y[2 : 2 + batch])
    assert torch.equal(raw.image_norm_backward(*rest, groups=3)[0], dx[2 : 2 + batch])


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_nothing_is_touched_beyond_the_tensors(
    path: str, dtype: torch.dtype, device: torch.device
) -> None:
    if device.type == "cuda":
        pytest.skip("pages are guarded on the CPU")
    x = torch.randn(2, 6, 5, 7).to(dtype)
    order = (0, 2, 3, 1) if path == "columns" else (0, 1, 2, 3)
    back = [order.index(axis) for axis in range(4)]
    for before in (False, True):
        held = guarded(x.permute(order).contiguous(), before=before).permute(back)
        weight = guarded(torch.randn(6).to(dtype), before=before)
        y, statistics = raw.group_norm_forward(held, 3, weight, None, EPS)
        scaled = exact(x, 3) * weight.double().view(1, -1, 1, 1)
        assert ulp_errors(y, scaled).max_ulp <= 4
        _, dweight, _ = raw.image_norm_backward(
            *("group_norm", held, held, statistics, weight), groups=3, dweight=dtype, dbias=dtype
        )
        assert dweight is not None
        assert ulp_errors(dweight, (x.double() * exact(x, 3)).sum((0, 2, 3))).max_ulp <= 4


def test_a_misaligned_base_gives_the_same_bits(path: str, device: torch.device) -> None:
    x = laid(torch.randn(3, 32, 8, 8, device=device, dtype=torch.float16), path)
    room = torch.empty(x.numel() + 1, device=device, dtype=x.dtype)
    shifted = room[1:].as_strided(x.shape, x.stride()).copy_(x)
    assert shifted.data_ptr() % 16
    assert torch.equal(normalized(shifted, 4), normalized(x, 4))


def test_rounds_of_a_plane(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """A plane too long for one round of its blocks."""
    monkeypatch.setattr(raw, "resident_plan", lambda *_: None)
    monkeypatch.setattr(image_plan, "_MOST_PARTS", 2)
    monkeypatch.setattr(image_launch, "sums_plan", image_plan.sums_plan.__wrapped__)
    x = torch.randn(2, 2, 120, 121, device=device)
    call = ImageNorm.of("group_norm", x, 1)
    assert (call.plan.parts, call.plan.rounds) == (2, 2)
    assert ulp_errors(normalized(x, 2), exact(x, 2)).max_ulp <= 4


@pytest.mark.parametrize("shape", [(0, 6, 5, 7), (2, 6, 0, 7)], ids=name_of)
def test_an_empty_batch(path: str, shape: tuple[int, ...], device: torch.device) -> None:
    x = laid(torch.empty(shape, device=device), path).requires_grad_()
    weight = torch.ones(6, device=device, requires_grad=True)
    y = group_norm(x, 3, weight)
    assert y.shape == x.shape
    dx, dweight = torch.autograd.grad(y.sum(), [x, weight])
    assert dx.shape == x.shape
    assert not dweight.any()


@pytest.mark.parametrize(
    "parameters", [(torch.float16, torch.float32), (torch.float32, torch.float16)]
)
def test_each_gradient_is_rounded_once_to_its_own_dtype(
    path: str, parameters: tuple[torch.dtype, torch.dtype], device: torch.device
) -> None:
    x = laid(torch.randn(64, 4, 32, 32, device=device), path)
    weight, bias = (
        torch.ones(4, device=device, dtype=dtype).requires_grad_() for dtype in parameters
    )
    slope = 1.2345 if bias.dtype == torch.float32 else 0.12345
    dy = torch.full_like(x, slope)
    dweight, dbias = torch.autograd.grad(group_norm(x, 2, weight, bias), [weight, bias], dy)
    assert (dweight.dtype, dbias.dtype) == parameters
    error = ulp_errors(dbias, dy.double().sum((0, 2, 3)))
    assert error.nonfinite == 0
    assert error.max_ulp <= 1


def test_an_empty_batch_is_on_a_device_with_kernels_too() -> None:
    x = torch.randn(0, 8, 2)
    with pytest.raises(DeviceError):
        group_norm(x, 2)
    with pytest.raises(DeviceError):
        raw.image_norm_backward("group_norm", x, x, torch.empty(0, 4), None, groups=2)


def test_instance_norm_is_that_of_torch(device: torch.device) -> None:
    x = torch.randn(3, 32, 8, 8, device=device)
    torch.testing.assert_close(instance_norm(x), F.instance_norm(x))


def test_a_dispatched_call_is_the_same(device: torch.device) -> None:
    x = torch.randn(3, 32, 8, 8, device=device, requires_grad=True)
    weight, bias = torch.randn(2, 32, device=device)
    torch.library.opcheck(GROUP_NORM.overload, (x, 4, weight, bias, EPS))


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    x, ones = torch.randn(3, 6, 5, 7, device=device), torch.ones(6, device=device)
    for groups in (0, -1, 4):
        with pytest.raises(LaunchError, match=f"groups divide the channels.*6; groups is {groups}"):
            group_norm(x, groups)
    with pytest.raises(LaunchError, match=r"groups is 2\.0; choose a whole number"):
        group_norm(x, 2.0)  # type: ignore[arg-type]
    with pytest.raises(LaunchError, match="bias has one element for each of 6"):
        group_norm(x, 2, ones, ones[:1])
    with pytest.raises(LaunchError, match="eps keeps"):
        group_norm(x, 2, eps=-1.0)
    with pytest.raises(LaunchError, match="int32"):
        group_norm(x.int(), 2)


WRONG_BACKWARDS = {
    "dy has the shape": {"dy": torch.randn(3, 6, 5)},
    "dy has the dtype": {"dy": torch.randn(3, 6, 5, 7).half()},
    "float64": {"dy": torch.randn(3, 6, 5, 7).double(), "x": torch.randn(3, 6, 5, 7).double()},
    r"images have axes": {"dy": torch.randn(6), "x": torch.randn(6)},
    r"for each of 6 sets.*float32 of shape \(6, 3\)": {"statistics": torch.ones(6, 3)},
    r"for each of 6 sets.*float32 of shape \(5, 4\)": {"statistics": torch.ones(5, 4)},
    r"for each of 6 sets.*float64 of shape": {"statistics": torch.ones(6, 4).double()},
    "are on meta": {"statistics": torch.ones(6, 4, device="meta")},
    "weight has one element for each of 6": {"weight": torch.ones(5)},
    "weight is torch.int32": {"weight": torch.ones(6).int()},
    "norm is 'layer_norm'": {"norm": "layer_norm"},
    "groups is 0": {"groups": 0},
    "groups is 4": {"groups": 4},
    "'dgamma' is of none": {"needs": ["dx", "dgamma"]},
    "bias_dtype is torch.int32": {"bias_dtype": torch.int32},
}


@pytest.mark.parametrize("message", WRONG_BACKWARDS)
@pytest.mark.parametrize("dispatched", [False, True])
def test_a_backward_of_what_does_not_fit_is_refused(message: str, *, dispatched: bool) -> None:
    arguments = {
        "dy": torch.randn(3, 6, 5, 7),
        "x": torch.randn(3, 6, 5, 7),
        "statistics": torch.ones(6, 4),
        "weight": torch.ones(6),
        "norm": "group_norm",
        "groups": 2,
        "frozen": False,
        "needs": ["dx", "dweight", "dbias"],
        "bias_dtype": None,
    } | WRONG_BACKWARDS[message]
    backward = IMAGE_NORM_BACKWARD.overload if dispatched else IMAGE_NORM_BACKWARD
    with emulating(SM_90), pytest.raises((LaunchError, DeviceError), match=message):
        backward(*arguments.values())


def test_statistics_may_lie_anywhere(device: torch.device) -> None:
    x, dy = torch.randn(2, 3, 6, 5, 7, device=device)
    statistics = raw.group_norm_forward(x, 2, None, None, EPS)[1]
    shifted = torch.empty(statistics.numel() + 1, device=device)[1:].view(-1, 4).copy_(statistics)
    columns = statistics.t().contiguous().t()
    given = [
        IMAGE_NORM_BACKWARD(dy, x, s, None, "group_norm", 2, False, ["dx"])[0]
        for s in (statistics, shifted, columns)
    ]
    assert torch.equal(given[0], given[1])
    assert torch.equal(given[0], given[2])


@pytest.mark.parametrize("architecture", [SM_80, SM_90], ids=str)
@pytest.mark.parametrize(
    ("kernel", "registers"),
    [
        ("plane_norm<GroupNorm, {}, false>", 80),
        ("plane_norm<GroupNorm, {}, true>", 80),
        ("plane_sums<GroupNorm, {}, false>", 80),
        ("plane_sums<GroupNorm, {}, true>", 80),
        ("column_sums<GroupNorm, {}, false>", 80),
        ("column_sums<GroupNorm, {}, true>", 80),
        ("plane_apply<GroupNorm, {}, Normalize>", 64),
        ("plane_apply<GroupNorm, {}, Backpropagate>", 64),
        ("column_apply<GroupNorm, {}, Normalize>", 80),
        ("column_apply<GroupNorm, {}, Backpropagate>", 80),
        ("group_resident<{}>", 64),
    ],
)
def test_what_is_compiled_does_not_spill(
    kernel: str, registers: int, architecture: Architecture
) -> None:
    if reason := inspection_unavailable():
        pytest.skip(reason)
    function = SOURCES["group_norm"].function(kernel.format("float, 4"))
    used = inspect_function(function, architecture)
    assert (used.spill_bytes, used.stack_bytes) == (0, 0)
    assert used.registers <= registers
    assert used.wide_loads >= 4
    assert used.wide_stores >= ("sums" not in kernel)
