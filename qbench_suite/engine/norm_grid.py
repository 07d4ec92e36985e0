"""The grid of norm kernels: which provider, operation, shape and dtype."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import torch

from qbench_suite.engine.grid import GridCase, Selection, check_unique
from qbench_suite.errors import SelectionError
from qbench_suite.manager import Manager
from qbench_suite.norms import NormKernel, NormOperation

#: Dtypes of the default grid; float16 is an accelerator's.
_DTYPES, _ACCELERATED = ("float32", "bfloat16"), ("float32", "float16", "bfloat16")
#: Elements above which the default grid on the CPU has float32 only, and nothing that quantizes.
_QUICK = 3 << 19
#: Bytes of a float64 result that an address space can hold.
_MOST_BYTES = 1 << 47
_SHAPE = r"[1-9]\d*(x[1-9]\d*)*"


@dataclass(frozen=True)
class NormCase(GridCase):
    """A norm kernel on a shape and dtype: ``provider-operation-shape-dtype``."""

    table = "norms"
    provider: str
    operation: str
    #: Lengths of the axes of the input, joined by ``x``.
    shape: str
    dtype: str
    #: Format of quantized outputs, else that of the dtype.
    format: str = field(default="", compare=False)

    @property
    def kernel(self) -> str:
        """The name that its kernel is registered by."""
        return f"{self.operation}:{self.provider}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(int, self.shape.split("x")))

    def __lt__(self, other: NormCase) -> bool:
        """By what is computed first: the float64 result is made once for all who provide it."""
        return self._order < other._order

    @property
    def _order(self) -> tuple[str, tuple[int, ...], str, str]:
        return self.operation, self.lengths, self.dtype, self.provider


def norm_cases(selection: Selection, manager: Manager, device: torch.device) -> list[NormCase]:
    """Every norm case selected, sorted; raises ``SelectionError`` for shapes and dtypes that are none.

    By default the kernels of the default grid on the shapes of their operations; large shapes and
    float16 where ``device`` is an accelerator; on the CPU, so that it stays quick, bfloat16 and
    quantized outputs for small shapes only.
    """
    known = manager.norm_kernels
    names = [kernel.name for kernel in known if kernel.default]
    if selection.norms is not None:
        names = known.select(selection.norms)
    kernels = [known.get(name) for name in names]
    accelerated = device.type != "cpu"
    shapes = _shapes(selection.norm_shapes, kernels)
    dtypes = _dtypes(selection.norm_dtypes, kernels)
    cases = [
        NormCase(kernel.provider, kernel.operation.name, shape, dtype, format)
        for kernel in kernels
        for shape in shapes_of(kernel.operation, shapes, accelerated=accelerated)
        for dtype in dtypes or _default_dtypes(shape, shapes is not None, accelerated)
        if dtype in kernel.dtypes
        for format in [_format(kernel.operation, dtype, manager)]
        if selection.formats is None or format in selection.format_names(manager)
    ]
    check_unique(cases)
    return sorted(cases)


def shapes_of(
    operation: NormOperation, asked: list[str] | None, *, accelerated: bool
) -> tuple[str, ...]:
    """Those asked for that have as many axes as ``operation`` takes; without any asked, its own."""
    if asked is None:
        if accelerated:
            return operation.shapes + operation.large_shapes
        return tuple(filter(_quick, operation.shapes)) if operation.quantized else operation.shapes
    return tuple(shape for shape in asked if shape.count("x") + 1 == operation.rank)


def _default_dtypes(shape: str, asked: bool, accelerated: bool) -> tuple[str, ...]:
    if accelerated:
        return _ACCELERATED
    return _DTYPES if asked or _quick(shape) else _DTYPES[:1]


def _quick(shape: str) -> bool:
    return math.prod(map(int, shape.split("x"))) <= _QUICK


def _shapes(text: str | None, kernels: list[NormKernel]) -> list[str] | None:
    if text is None:
        return None
    ranks = {kernel.operation.rank for kernel in kernels}
    shapes = [part.strip() for part in text.split(",")]
    for shape in shapes:
        if not re.fullmatch(_SHAPE, shape):
            raise SelectionError(
                "--qbench-norm-shapes takes a comma list like 2048x4096,1x256x224x224, of numbers "
                f"above 0; got {shape!r}. Correct it."
            )
        if math.prod(map(int, shape.split("x"))) * 8 > _MOST_BYTES:
            raise SelectionError(
                "A shape of --qbench-norm-shapes fits an address space, in float64 2^47 bytes; got "
                f"{shape}. Ask for a smaller one."
            )
        if kernels and shape.count("x") + 1 not in ranks:
            raise SelectionError(
                "A shape of --qbench-norm-shapes has as many axes as an operation selected takes, "
                f"{' or '.join(map(str, sorted(ranks)))}; got {shape}. Correct it, or widen "
                "--qbench-norms."
            )
    return list(dict.fromkeys(shapes))


def _dtypes(text: str | None, kernels: list[NormKernel]) -> list[str] | None:
    if text is None:
        return None
    known = sorted({dtype for kernel in kernels for dtype in kernel.dtypes})
    dtypes = [part.strip() for part in text.split(",")]
    for dtype in dtypes:
        if kernels and dtype not in known:
            raise SelectionError(
                "--qbench-norm-dtypes takes a comma list of dtypes that kernels selected have, "
                f"{', '.join(known)}; got {dtype!r}. Correct it, or widen --qbench-norms."
            )
    return list(dict.fromkeys(dtypes))


def _format(operation: NormOperation, dtype: str, manager: Manager) -> str:
    """The format of what ``operation`` gives: that of its codes, or the one that a dtype is."""
    if operation.quantized:
        return operation.quantized[0]
    info = torch.finfo(getattr(torch, dtype))
    for format in manager.formats:
        if not format.scale_only and (format.bits, format.max) == (info.bits, info.max):
            return format.name
    raise SelectionError(
        f"A norm case belongs to a registered format; none has the values of {dtype}. Load a plugin "
        "with it, such as qbench_formats, or leave the dtype out of --qbench-norm-dtypes."
    )
