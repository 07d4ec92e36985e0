"""Bytes a perfect kernel moves, counted by hand: (problem, bytes)."""

from __future__ import annotations

import pytest
import torch

from qbench_suite import NORM_OPERATIONS, NormProblem

#: Rows 6, width 96, two bytes an element; images 2 × 8 × 3 × 5; conditions 2 × 4 × 32.
R, N = 6, 96
X = R * N * 2
I = 2 * 8 * 3 * 5 * 2  # noqa: E741 - one image tensor
T = 2 * 4 * 32 * 2
CASES = [
    # One tensor read, one written, and the affine vectors read.
    ("layer_norm", "weight_bias", 2 * X + 2 * N * 2),
    ("layer_norm", "none", 2 * X),
    ("rms_norm", "weight", 2 * X + N * 2),
    # dy, x and weight read, dx, dweight, dbias written; no gradient depends on the bias.
    ("layer_norm_backward", "weight_bias", 3 * X + 3 * N * 2),
    ("rms_norm_backward", "weight", 3 * X + 2 * N * 2),
    ("rms_norm_backward", "none", 3 * X),
    # Both terms read, y and the sum written; the backward reads the sum in place of its terms.
    ("add_layer_norm", "weight_bias", 4 * X + 2 * N * 2),
    ("add_rms_norm", "weight", 4 * X + N * 2),
    ("add_layer_norm_backward", "weight_bias", 4 * X + 3 * N * 2),
    ("add_rms_norm_backward", "weight", 4 * X + 2 * N * 2),
    ("group_norm", "weight_bias", 2 * I + 2 * 8 * 2),
    ("group_norm_nhwc_backward", "weight_bias", 3 * I + 3 * 8 * 2),
    # Vectors of channels are float32: weight, bias, two statistics read and written.
    ("batch_norm", "weight_bias", 2 * I + 6 * 8 * 4),
    ("batch_norm_nhwc", "none", 2 * I + 4 * 8 * 4),
    ("batch_norm_inference", "weight_bias", 2 * I + 4 * 8 * 4),
    ("batch_norm_backward", "weight_bias", 3 * I + 3 * 8 * 4),
    ("adaptive_layer_norm", "none", 2 * T + 2 * 2 * 32 * 2),
    ("adaptive_layer_norm_token", "none", 4 * T),
    ("adaptive_layer_norm_token_backward", "none", 3 * T + 3 * T),
    ("gated_adaptive_layer_norm", "none", 4 * T + 3 * 2 * 32 * 2),
    ("weight_norm", "none", 2 * X + R * 2),
    ("weight_norm_backward", "none", 3 * X + 2 * R * 2),
    ("dynamic_tanh", "weight_bias", 2 * X + 2 * N * 2 + 2),
    ("dynamic_tanh_backward", "weight_bias", 3 * X + 3 * N * 2 + 2 + 2),
    # One byte a code; scales of four bytes: the one given, one a row, one for 32 of 96 elements.
    ("rms_norm_fp8_e4m3_static", "weight", X + X // 2 + N * 2 + 4 + 4),
    ("rms_norm_int8_token", "weight", X + X // 2 + N * 2 + R * 4),
    ("rms_norm_fp8_e4m3_chunk128", "weight", X + X // 2 + N * 2 + R * 4),
    ("rms_norm_fp8_e4m3_mx32", "weight", X + X // 2 + N * 2 + R * 3 * 4),
    ("add_rms_norm_fp8_e4m3_token", "weight", 3 * X + X // 2 + N * 2 + R * 4),
    ("qk_norm_attention", "weight", 4 * 2 * 3 * 5 * 16 * 2 + 2 * 16 * 2),
]


@pytest.mark.parametrize(("name", "affine", "expected"), CASES)
def test_bytes_are_those_counted_by_hand(name: str, affine: str, expected: int) -> None:
    operation = NORM_OPERATIONS[name]
    shapes: dict[int, tuple[int, ...]] = {2: (R, N), 3: (2, 4, 32), 4: (2, 8, 3, 5)}
    shape = (2, 3, 5, 16) if operation.fused == ("attention",) else shapes[operation.rank]
    inputs = operation.inputs(NormProblem(shape, torch.float16, affine))  # type: ignore[arg-type]
    assert operation.bytes_moved(inputs, operation.eager(inputs)()) == expected


def test_every_family_is_counted() -> None:
    counted = {name for name, _, _ in CASES}
    stems = {name.replace("_nhwc", "") for name in counted}
    for name, operation in NORM_OPERATIONS.items():
        if operation.quantized is None:
            assert name.replace("_nhwc", "").replace("_token", "") in {
                stem.replace("_token", "") for stem in stems
            }
