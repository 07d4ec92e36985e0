"""Norms that give codes and scales instead of floats, in one read of their input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench_suite.norms.operation import Inputs, NormOperation, NormProblem, Outputs, Thunk
from qbench_suite.norms.operations.rows import ADD_RMS_NORM, LAYER_NORM, RMS_NORM

#: (format, mode) pairs; ``static``: the scale is an input, one a tensor.
SPECS = (
    ("fp8_e4m3", "static"),
    ("fp8_e4m3", "token"),
    ("fp8_e4m3", "chunk128"),
    ("fp8_e4m3", "mx32"),
    ("int8", "static"),
    ("int8", "token"),
)
#: Dtype of the codes of a format, and the scale that static cases have: largest code over 8 standard
#: deviations of normalized values.
_CODES = {"fp8_e4m3": torch.float8_e4m3fn, "int8": torch.int8}
_LARGEST = {"fp8_e4m3": 448.0, "int8": 127.0}
_CHUNK = {"chunk128": 128, "mx32": 32}


def quantizing(norm: NormOperation, format: str, mode: str) -> NormOperation:
    """``norm`` whose ``y`` is rounded to its dtype, then quantized: outputs codes, scales, the rest.

    ``codes`` has the shape of y, of torch's float8_e4m3fn or int8; ``scales`` is float32: one a row
    (rows, 1) for ``token``, one a chunk (rows, ceil(N / 128)) or (rows, ceil(N / 32)) for ``chunk128``
    and ``mx32`` (powers of two, the OCP rule), and the scale given, (1,), for ``static``. Codes are
    round(y / scale), to nearest, ties to even, saturating; a group of zeros has scale 1. ±Inf
    saturates, NaN has the code of NaN, 0 in int8; neither changes a scale. No rows give no codes.
    """

    def inputs(problem: NormProblem) -> dict[str, Any]:
        drawn = {**norm.inputs(problem), "dtype": problem.dtype}
        if mode == "static":
            drawn["scale"] = torch.full((1,), 8.0 / _LARGEST[format], device=drawn["x"].device)
        return drawn

    def eager(inputs: Inputs) -> Thunk:
        run = norm.eager(inputs)

        def quantized() -> Outputs:
            y, *rest = run()
            return (*_quantized(y, format, mode, inputs.get("scale")), *rest)

        return quantized

    def reference(inputs: Inputs) -> Outputs:
        y, *rest = norm.reference(inputs)
        given = inputs.get("scale")
        rounded = y.to(inputs["dtype"])
        scale = None if given is None else given.float()
        codes, scales = _quantized(rounded, format, mode, scale)
        return (codes, scales.double(), *rest)

    return NormOperation(
        name=f"{norm.name}_{format}_{mode}",
        outputs=("codes", "scales", *norm.outputs[1:]),
        inputs=inputs,
        reference=reference,
        eager=eager,
        shapes=norm.shapes,
        large_shapes=norm.large_shapes[:2],
        affine=norm.affine,
        fused=(*norm.fused, "quantize"),
        quantized=(format, mode),
        description=f"{norm.name}, its output as {format} codes and scales of mode {mode}",
    )


def _quantized(y: Tensor, format: str, mode: str, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes and scales of rows, in eager torch."""
    top, values = _LARGEST[format], y.float()
    if given is not None:
        return _codes(values / given, format), given
    width = y.shape[-1]
    chunk = _CHUNK.get(mode, max(width, 1))
    ragged = -width % chunk
    padded = torch.nn.functional.pad(values, (0, ragged)) if ragged else values
    padded = padded.reshape(*y.shape[:-1], -(-width // chunk), chunk)
    # As the suite's quantizer: NaN and ±Inf leave the scale alone; it is a normal number, and scale · top
    # stays finite.
    amax = torch.where(padded.isfinite(), padded, 0.0).abs().amax(-1, keepdim=True)
    scale = amax.clamp(max=3.4e38) / top
    scale = scale.clamp(min=2.0**-126)
    if mode == "mx32":
        # The power of two below, from its bits, over that below the largest code, 448.
        power = (amax.view(torch.int32) & 0x7F800000).view(torch.float32)
        scale = (power / 256).clamp(min=2.0**-127)
    scale = torch.where(amax > 0, scale, torch.ones_like(scale))
    codes = _codes(padded / scale, format).flatten(-2)[..., :width]
    return codes.contiguous(), scale.squeeze(-1)


def _codes(scaled: Tensor, format: str) -> Tensor:
    top = _LARGEST[format]
    scaled = scaled.clamp(-top, top)
    return (scaled.round() if format == "int8" else scaled).to(_CODES[format])


OPERATIONS = tuple(
    quantizing(norm, *spec) for norm in (LAYER_NORM, RMS_NORM, ADD_RMS_NORM) for spec in SPECS
)
