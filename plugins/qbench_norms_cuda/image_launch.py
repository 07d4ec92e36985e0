"""The kernels of BatchNorm and GroupNorm with what they are given: ImageNorm."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from qbench_norms_cuda.arrivals import arrivals
from qbench_norms_cuda.column_sum import C_NAMES
from qbench_norms_cuda.image_plan import (
    COEFFICIENTS_BYTES,
    PAIR_BYTES,
    PLANE_ITEMS,
    THREADS,
    Images,
    ResidentPlan,
    SumsPlan,
    laid_out,
    laid_out_as,
    sums_plan,
    widest,
)
from qbench_suite import Architecture, CudaSource, LaunchPlan, architecture_of

SOURCES = {
    name: CudaSource(Path(__file__).parent / "csrc" / f"{name}.cu")
    for name in ("batch_norm", "group_norm")
}
_POLICIES = {"batch_norm": "BatchNorm", "group_norm": "GroupNorm"}
#: As in ``Parameters`` of csrc/image_norm.cuh.
_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_PARAMETERS = ("weight", "bias", "dweight", "dbias")
_POINTERS = (
    "running_mean",
    "running_var",
    "new_running_mean",
    "new_running_var",
    "statistics",
    "coefficients",
    "partials",
    "totals",
    "gradients",
    "group_gradients",
    "arrivals",
)
#: Blocks that sum before the first is applied: more than run at once, few enough to stay in the cache.
_AHEAD = 1024
#: Sums of gradients that one block may add up at the end.
_MOST_GRADIENTS = 1 << 15
_LENGTHS = ("images", "channels", "positions", "group", "gradient_images")
_PLANNED = ("unit", "units", "unit_tiles", "parts", "rounds", "width", "lanes", "fan", "fans")


class _Parameters(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_longlong))


class ImageArgs(ctypes.Structure):
    """The struct of csrc/image_norm.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "dy", "out")),
        *((name, _Parameters) for name in _PARAMETERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
        *((name, ctypes.c_longlong) for name in (*_LENGTHS, *_PLANNED, "lag", "frozen")),
    )


@dataclass
class ImageNorm:
    """One norm of one tensor: what its kernels are given, and the launches of them."""

    norm: str
    x: Tensor
    shape: Images
    group: int
    dy: Tensor | None = None
    args: ImageArgs = field(default_factory=ImageArgs)
    #: What the sums leave for the second kernel.
    memory: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, norm: str, x: Tensor, group: int, dy: Tensor | None = None) -> ImageNorm:
        """Of ``batch_norm`` or ``group_norm`` with ``group`` channels; backward where there is a ``dy``."""
        x, shape = laid_out(x)
        if norm == "batch_norm":
            shape = shape.over_images
        return cls(norm, x, shape, group, None if dy is None else laid_out_as(x, dy))

    @property
    def over_images(self) -> bool:
        """Whether a set is a channel of all images."""
        return self.norm == "batch_norm"

    def __post_init__(self) -> None:
        size = self.x.element_size()
        #: Which block sums what.
        self.plan = sums_plan(self.shape, self.group, self.over_images, size)

    def fill(self, out: Tensor, **values: Tensor | float | None) -> None:
        """Arguments by name; a tensor as its address, or as parameters with their dtype.

        The tensors must be kept until the kernels are launched.
        """
        args = _lengths(self.plan, self.shape, self.group, self.over_images)
        args.x, args.out = self.x.data_ptr(), out.data_ptr()
        if self.dy is not None:
            args.dy = self.dy.data_ptr()
        for name, value in values.items():
            if not isinstance(value, Tensor):
                if value is not None:
                    setattr(args, name, value)
            elif name in _PARAMETERS:
                setattr(args, name, _Parameters(value.data_ptr(), _CODES[value.dtype]))
            else:
                setattr(args, name, value.data_ptr())
        self.args = args

    @property
    def units(self) -> int:
        """What is finished together, in the whole tensor."""
        return self.plan.units * (1 if self.over_images else self.shape.images)

    @property
    def fused(self) -> bool:
        """Whether one kernel sums and applies: planes of whole vectors, few rows of gradients."""
        if self.shape.channels_last or self.shape.positions * self.x.element_size() % 16:
            return False
        rows = 0 if self.dy is None or self.over_images else self.shape.images
        return rows * self.shape.channels <= _MOST_GRADIENTS

    def run(self) -> None:
        """Launch what makes statistics or gradients of parameters, and every element."""
        self.reserve()
        backward = str(self.dy is not None).lower()
        if not self.fused:
            self.sum()
            self.apply("Normalize" if self.dy is None else "Backpropagate")
            return
        blocks = self.shape.images * self.plan.tiles * self.plan.parts
        self.args.lag = min(-(-_AHEAD * self.units // blocks), self.units)
        self._launch(
            f"norm<{{}}, {backward}>", 2 * blocks, THREADS * PAIR_BYTES, self.shape.positions
        )

    def reserve(self) -> None:
        """Memory that the sums write and the second kernel reads, and counters."""
        args, shape, plan = self.args, self.shape, self.plan
        table = shape.channels * (1 if self.over_images else shape.images)
        offsets, size = _memory(plan, shape, self.group, table, self.dy is not None)
        memory = self.x.new_empty(size, dtype=torch.uint8)
        address = memory.data_ptr()
        for name, offset in offsets:
            setattr(args, name, address + offset)
        first = shape.images * plan.fans * plan.tiles if plan.fan > 1 else 0
        counters = arrivals(first + self.units + 2, self.x.device)
        args.arrivals = counters.data_ptr()
        self.memory = (memory, counters)

    def sum(self) -> None:
        """Launch the sums, whose last blocks leave the coefficients of every channel."""
        shape, plan = self.shape, self.plan
        pairs = THREADS * (16 // self.x.element_size() if shape.channels_last else 1)
        self._launch(
            f"sums<{{}}, {str(self.dy is not None).lower()}>",
            shape.images * plan.tiles * plan.parts,
            pairs * PAIR_BYTES,
            shape.channels if shape.channels_last else shape.positions,
        )

    def apply(self, step: str) -> None:
        """Launch what is done to every element."""
        shape, plan, vector = self.shape, self.plan, 16 // self.x.element_size()
        shared = THREADS * PAIR_BYTES if self.dy is not None else 0
        if shape.channels_last:
            blocks = shape.images * plan.tiles * plan.parts
            shared = max(shared, plan.lanes * vector * COEFFICIENTS_BYTES)
            self._launch(f"apply<{{}}, {step}>", blocks, shared, shape.channels)
        else:
            blocks = -(-self.x.numel() // (THREADS * PLANE_ITEMS * vector))
            self._launch(f"apply<{{}}, {step}>", blocks, shared, 16)

    def hold(self, plan: ResidentPlan) -> None:
        """Launch the one kernel that holds each group on chip."""
        self.args.width = plan.width
        width = widest(self.group * self.shape.positions, self.x)
        sets = self.shape.images * self.shape.channels // self.group
        kernel = f"group_resident<{C_NAMES[self.x.dtype]}, {width}>"
        shape = (sets * plan.cluster, plan.threads, plan.cluster, plan.shared_bytes)
        device = self.x.device
        _planned(self.norm, kernel, *shape, device, architecture_of(device))(self.args)

    def _launch(self, kernel: str, blocks: int, shared_bytes: int, length: int) -> None:
        order = "column" if self.shape.channels_last else "plane"
        width, device = widest(length, self.x, self.dy), self.x.device
        types = f"{_POLICIES[self.norm]}, {C_NAMES[self.x.dtype]}, {width}"
        kernel = f"{order}_{kernel.format(types)}"
        shape = (blocks, THREADS, 1, shared_bytes)
        _planned(self.norm, kernel, *shape, device, architecture_of(device))(self.args)


@functools.lru_cache(maxsize=4096)
def _planned(
    norm: str,
    kernel: str,
    blocks: int,
    threads: int,
    cluster: int,
    shared_bytes: int,
    device: torch.device,
    _: Architecture,
) -> LaunchPlan:
    """The launch of a kernel; the architecture is that which the CPU stands for."""
    return (
        SOURCES[norm]
        .function(kernel)
        .plan(
            grid=(blocks, 1, 1),
            block=(threads, 1, 1),
            cluster=cluster,
            shared_bytes=shared_bytes,
            dependent=True,
            device=device,
        )
    )


def _lengths(plan: SumsPlan, shape: Images, group: int, over_images: bool) -> ImageArgs:
    """Arguments without their pointers."""
    return ImageArgs.from_buffer_copy(_template(plan, shape, group, over_images))


@functools.lru_cache(maxsize=1024)
def _template(plan: SumsPlan, shape: Images, group: int, over_images: bool) -> bytes:
    args = ImageArgs(group=group, gradient_images=1 if over_images else shape.images)
    for name in _PLANNED:
        setattr(args, name, getattr(plan, name))
    for name in ("images", "channels", "positions"):
        setattr(args, name, getattr(shape, name))
    return bytes(args)


@functools.lru_cache(maxsize=1024)
def _memory(
    plan: SumsPlan, shape: Images, group: int, table: int, backward: bool
) -> tuple[tuple[tuple[str, int], ...], int]:
    """Where in one piece of memory each argument is, and the bytes of all; ``table``: coefficients."""
    channels = shape.images * shape.channels
    sizes = {
        "partials": channels * plan.parts * PAIR_BYTES,
        "totals": channels * plan.fans * PAIR_BYTES if plan.fan > 1 else 0,
        "coefficients": table * COEFFICIENTS_BYTES,
        "gradients": table * PAIR_BYTES if backward else 0,
        "group_gradients": channels // group * PAIR_BYTES if backward else 0,
    }
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += size
    if plan.fan == 1:
        offsets["totals"] = offsets["partials"]
    return tuple(offsets.items()), end
