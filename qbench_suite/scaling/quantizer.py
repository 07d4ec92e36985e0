"""Quantizer: a format in a mode, applied to tensors by the fused kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench_suite.errors import FormatError, ModeError
from qbench_suite.formats import Format
from qbench_suite.scaling.axes import Axes
from qbench_suite.scaling.compiling import kernel
from qbench_suite.scaling.granularity import Shape
from qbench_suite.scaling.groups import fold_groups
from qbench_suite.scaling.kernel import KernelKey, Operands
from qbench_suite.scaling.mode import Mode
from qbench_suite.scaling.pieces import Piece, cut, is_dense, scale_shape
from qbench_suite.scaling.quantized import FakeQuantized, QuantizedTensor, Scales
from qbench_suite.scaling.ranges import Range, RangeRule
from qbench_suite.scaling.static import scales_of_range

_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Quantizer:
    """A format in a mode: from a float tensor to codes and scales, or to float values on the grid.

    Arithmetic is float32 whatever the input's dtype; the result has the input's dtype and memory
    order. Scales come from the finite values: NaN stays NaN, ±Inf saturates (unless the format
    overflows by its specification), a group of zeros has scale 1, an empty tensor gives an empty one.
    Nothing is differentiable.

    Raises ``ModeError`` if the format does not run in the mode, and for a tensor that is not float.
    """

    format: Format
    mode: Mode
    #: Seed of stochastic rounding; the same seed and shape give the same result at every call.
    seed: int = 0
    #: Which range of the values a dynamic scale covers; None for their absolute maximum, which the
    #: kernel takes on the way.
    range_rule: RangeRule | None = None

    def __post_init__(self) -> None:
        self.mode.check(self.format)

    def __str__(self) -> str:
        name = f"{self.format.name}-{self.mode.name}"
        return name if self.range_rule is None else f"{name}/{self.range_rule.name}"

    def fake_quantize(
        self,
        x: Tensor,
        axes: Axes | None = None,
        *,
        out: Tensor | None = None,
        scales: Scales | None = None,
    ) -> FakeQuantized:
        """``q · scale`` with ``q = round(x / scale)``.

        ``x``: any shape; ``axes``: what its axes mean, by default ``Axes.features``; ``out``: buffer
        of the shape, dtype and strides of ``x`` to write to (a fresh one costs more than the
        arithmetic, as every page of it is faulted in); ``scales``: static ones, used instead of those
        of ``x``, so that what lies beyond them saturates. Raises ``ModeError`` where their shape is
        not the one that the mode gives ``x``.
        """
        return self._run(x, axes, out, scales, dequantize=True)

    def quantize(self, x: Tensor, axes: Axes | None = None) -> QuantizedTensor:
        """Codes and scales of ``x``; NaN has no code in formats without one (``FormatError``)."""
        raw = torch.empty_like(x, dtype=torch.float32)
        grid = self._run(x, axes, raw, None, dequantize=False)
        q = grid.values
        if grid.zero_point is not None:
            zero_point = grid.spread_zero_point()
            assert zero_point is not None
            q = q + zero_point
        return QuantizedTensor(
            codes=self.format.encode(q),
            scale=grid.scale,
            zero_point=grid.zero_point,
            group_shape=grid.group_shape,
            format=self.format,
            mode=self.mode,
            dtype=x.dtype,
        )

    def group_shape(self, shape: Shape, axes: Axes) -> Shape:
        """Elements of a group along each axis of a tensor of this shape."""
        return self.mode.granularity.group_shape(shape, axes)

    def scales_of(self, range: Range, shape: Shape) -> Scales:
        """Scales that cover ``range`` (one element a group), of shape ``ceil(shape / group_shape)``.

        ``shape`` is that of the scales. With the least and largest finite value of each group they
        are the dynamic scales, bit for bit. Raises ``ModeError`` for another number of groups.
        """
        return scales_of_range(self.format, self.mode, range, shape)

    def _ranged(self, x: Tensor, group_shape: Shape) -> Scales | None:
        """The scales that the range rule gives ``x``; None where the kernel makes its own."""
        if self.range_rule is None or self.format.unit_scale or not x.numel():
            return None
        range = self.range_rule.range_of(fold_groups(x, group_shape), self)
        return self.scales_of(range, scale_shape(tuple(x.shape), group_shape))

    def _check_static(self, static: Scales, shape: Shape) -> None:
        if tuple(static.scale.shape) != shape:
            raise ModeError(
                f"Static scales have one element a group; {self} lays {shape} over this tensor, got "
                f"{tuple(static.scale.shape)}. Calibrate on inputs of the same shape, or use a mode "
                "whose scales do not depend on it."
            )
        if (static.zero_point is not None) != self.format.affine:
            raise ModeError(
                f"A zero point goes with an affine format, and only with one; got one: "
                f"{static.zero_point is not None} for {self.format.name}. Calibrate for this format."
            )

    @torch.no_grad()
    def _run(
        self,
        x: Tensor,
        axes: Axes | None,
        out: Tensor | None,
        static: Scales | None,
        *,
        dequantize: bool,
    ) -> FakeQuantized:
        _check_input(x, out)
        axes = axes or Axes.features(x.dim())
        group_shape = self.group_shape(tuple(x.shape), axes)
        if not is_dense(tuple(x.shape), x.stride()):
            x = x.contiguous()
        result = out if out is not None and out.stride() == x.stride() else None
        if result is None:
            result = torch.empty_like(x, dtype=x.dtype if out is None else out.dtype)
        static = self._ranged(x, group_shape) if static is None else static
        call = _Call(self, x, result, dequantize, static)
        pieces = cut(tuple(x.shape), x.stride(), group_shape)
        shape = scale_shape(tuple(x.shape), group_shape)
        if static is not None:
            self._check_static(static, shape)
        scales = [call.run(piece) for piece in pieces]
        if out is not None and result is not out:
            result = out.copy_(result)
        if static is not None:
            return FakeQuantized(result, *static, group_shape, self.format, self.mode)
        return FakeQuantized(
            values=result,
            scale=_assemble(pieces, [s for s, _ in scales], shape, x.device),
            zero_point=_assemble(pieces, [z for _, z in scales if z is not None], shape, x.device)
            if self.format.affine
            else None,
            group_shape=group_shape,
            format=self.format,
            mode=self.mode,
        )


class _Call:
    """One call of a quantizer: what its pieces have in common."""

    def __init__(
        self,
        quantizer: Quantizer,
        x: Tensor,
        out: Tensor,
        dequantize: bool,
        static: Scales | None,
    ) -> None:
        format, rule = quantizer.format, quantizer.mode.rule
        self.format, self.rule, self.dequantize = format, rule, dequantize
        self.x, self.out, self.static = x, out, static
        self.rounding = format.round_kernel(x.device)
        self.noise = _noise(x, quantizer.seed) if format.noisy else None
        self.top = _scalar(1.0 if format.unit_scale else format.max, x.device)
        needs_amax = static is None and rule.needs_tensor_amax and x.numel()
        zero = _scalar(0.0, x.device)
        self.tensor_amax = tensor_amax(x) if needs_amax else zero

    def run(self, piece: Piece) -> tuple[Tensor, Tensor | None]:
        """Quantize one piece in place in ``out``; its scales and zero points, folded."""
        scale, zero_point = self._scale_operands(piece)
        operands = Operands(
            x=_view(self.x, piece),
            out=_view(self.out, piece),
            scale=scale,
            zero_point=zero_point,
            noise=None if self.noise is None else _view(self.noise, piece),
            top=self.top,
            tensor_amax=self.tensor_amax,
            constants=self.rounding.constants,
        )
        key = KernelKey(
            round=self.rounding.function,
            rule=self.rule if self.static is None else None,
            reduced=piece.reduced,
            affine=self.format.affine,
            unit_scale=self.format.unit_scale,
            dequantize=self.dequantize,
        )
        kernel(key, operands)(operands)
        return operands.scale, operands.zero_point

    def _scale_operands(self, piece: Piece) -> tuple[Tensor, Tensor | None]:
        """Room for the scales and zero points of a piece; static ones, folded, where there are any."""
        if self.static is not None:
            scale, zero_point = self.static
            folded = None if zero_point is None else piece.fold_scale(zero_point)
            return piece.fold_scale(scale), folded
        scale = torch.empty(piece.kept_shape, dtype=torch.float32, device=self.x.device)
        return scale, torch.empty_like(scale) if self.format.affine else None


def tensor_amax(x: Tensor) -> Tensor:
    """Absolute maximum of the finite values of a dense, non-empty tensor: 0-d float32."""
    unused = _scalar(0.0, x.device)
    shape = tuple(x.shape)
    (piece,) = cut(shape, x.stride(), shape)
    view, amax = _view(x, piece), torch.empty(piece.kept_shape, device=x.device)
    operands = Operands(view, view, amax, None, None, unused, unused, ())
    key = KernelKey(None, None, piece.reduced, affine=False, unit_scale=False, dequantize=False)
    kernel(key, operands)(operands)
    return amax.view(())


def _view(x: Tensor, piece: Piece) -> Tensor:
    # Detached: a view remembers its base, and the compiler would specialise on the base's shape.
    view = x.as_strided(piece.shape, piece.strides, x.storage_offset() + piece.offset)
    return view.detach()


def _assemble(
    pieces: tuple[Piece, ...], parts: list[Tensor], shape: Shape, device: torch.device
) -> Tensor:
    """Folded scales of every piece put where they belong in the scale tensor."""
    if len(pieces) == 1 and pieces[0].order == tuple(range(len(shape))):
        return parts[0].view(shape)
    whole = torch.ones(shape, dtype=torch.float32, device=device)
    for piece, part in zip(pieces, parts, strict=True):
        target = whole[tuple(slice(first, last) for first, last in piece.groups)]
        target = target.permute(piece.order)
        target.copy_(part.reshape(target.shape))
    return whole


def _noise(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(device=x.device).manual_seed(seed)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float32, device=x.device)
    return torch.empty_like(x, dtype=torch.float32).copy_(noise)


_scalars: dict[tuple[float, torch.device], Tensor] = {}


def _scalar(value: float, device: torch.device) -> Tensor:
    """A 0-d tensor, made once: a transfer to the device at every call would dominate small ones."""
    key = (value, device)
    if key not in _scalars:
        _scalars[key] = torch.tensor(value, dtype=torch.float32, device=device)
    return _scalars[key]


def _check_input(x: Tensor, out: Tensor | None) -> None:
    if x.dtype not in _FLOAT_DTYPES:
        raise ModeError(
            f"A quantizer takes float16, bfloat16, float32 or float64; got {x.dtype}. Convert the "
            "tensor first."
        )
    if out is not None and out.shape != x.shape:
        raise FormatError(
            f"`out` has the shape of the input; got {tuple(out.shape)} for {tuple(x.shape)}. Use "
            "torch.empty_like(x)."
        )
