"""Gradients of the reference against formulas written out in NumPy, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qbench_suite import NORM_OPERATIONS, NormProblem

Array = np.ndarray[Any, np.dtype[Any]]


def arrays(
    name: str, shape: tuple[int, ...], affine: str | None = None
) -> tuple[dict, list[Array]]:
    """Inputs of an operation in float64, and its outputs."""
    operation = NORM_OPERATIONS[name]
    inputs = operation.inputs(NormProblem(shape, affine=affine))  # type: ignore[arg-type]
    outputs = [output.numpy() for output in operation.exact(inputs)]
    given = {
        key: value.double().numpy() if isinstance(value, torch.Tensor) else value
        for key, value in inputs.items()
    }
    return given, outputs


def close(found: list[Array], expected: list[Array]) -> None:
    assert len(found) == len(expected)
    for output, array in zip(found, expected, strict=True):
        assert output.shape == array.shape
        np.testing.assert_allclose(output, array, rtol=1e-10, atol=1e-11)


def centred_gradient(dxhat: Array, xhat: Array, rstd: Array, axes: tuple[int, ...]) -> Array:
    """Of x̂ = (x − mean) · rstd: what dx̂ has of 1 and of x̂ itself does not reach x."""
    along = {"axis": axes, "keepdims": True}
    return rstd * (dxhat - dxhat.mean(**along) - xhat * (dxhat * xhat).mean(**along))


def centred(x: Array, eps: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    rstd = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    return (x - x.mean(axis=axes, keepdims=True)) * rstd, rstd


OFFSETS = {"weight_bias": 0, "weight": 0, "one_plus_weight": 1}


@pytest.mark.parametrize("affine", [*OFFSETS, "none"])
@pytest.mark.parametrize("shape", [(5, 33), (1, 7), (9, 2)])
def test_layer_norm(shape: tuple[int, ...], affine: str) -> None:
    given, found = arrays("layer_norm_backward", shape, affine)
    dy, weight = given["dy"], given["weight"]
    xhat, rstd = centred(given["x"], given["eps"], (1,))
    scaled = dy if weight is None else dy * (weight + OFFSETS[affine])
    expected = [centred_gradient(scaled, xhat, rstd, (1,))]
    expected += [] if weight is None else [(dy * xhat).sum(0)]
    expected += [dy.sum(0)] if given["bias"] is not None else []
    close(found, expected)


@pytest.mark.parametrize("affine", ["weight", "one_plus_weight", "none"])
@pytest.mark.parametrize("shape", [(5, 33), (1, 7), (9, 1)])
def test_rms_norm(shape: tuple[int, ...], affine: str) -> None:
    given, found = arrays("rms_norm_backward", shape, affine)
    x, dy, weight = given["x"], given["dy"], given["weight"]
    rstd = 1 / np.sqrt((x * x).mean(1, keepdims=True) + given["eps"])
    xhat = x * rstd
    scaled = dy if weight is None else dy * (weight + OFFSETS[affine])
    dx = rstd * (scaled - xhat * (scaled * xhat).mean(1, keepdims=True))
    close(found, [dx] + ([] if weight is None else [(dy * xhat).sum(0)]))


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_a_residual_adds_its_own_gradient(norm: str) -> None:
    """Of the sum: what comes through the norm, and what comes past it; the same for both terms."""
    given, found = arrays(f"add_{norm}_backward", (5, 33))
    total = given["x"] + given["residual"]
    operation = NORM_OPERATIONS[f"{norm}_backward"]
    inputs = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    total32 = torch.from_numpy(total).float()  # the sum is rounded to the dtype of x
    plain = [t.numpy() for t in operation.exact({**inputs, "x": total32})]
    close(found, [plain[0] + given["dtotal"], *plain[1:]])


@pytest.mark.parametrize("order", ["", "_nhwc"])
@pytest.mark.parametrize("affine", ["weight_bias", "weight", "none"])
def test_group_norm(order: str, affine: str) -> None:
    given, found = arrays(f"group_norm{order}_backward", (2, 6, 3, 5), affine)
    groups, weight = given["groups"], given["weight"]
    assert groups == 2, "the greatest common divisor of 6 and 32"
    dy = given["dy"]
    grouped = given["x"].reshape(2, groups, 3, 3, 5)
    xhat, rstd = centred(grouped, given["eps"], (2, 3, 4))
    scaled = dy if weight is None else dy * weight[:, None, None]
    dx = centred_gradient(scaled.reshape(grouped.shape), xhat, rstd, (2, 3, 4)).reshape(dy.shape)
    expected = [dx]
    expected += [] if weight is None else [(dy * xhat.reshape(dy.shape)).sum((0, 2, 3))]
    expected += [dy.sum((0, 2, 3))] if given["bias"] is not None else []
    close(found, expected)


@pytest.mark.parametrize("order", ["", "_nhwc"])
@pytest.mark.parametrize("affine", ["weight_bias", "weight", "none"])
def test_batch_norm(order: str, affine: str) -> None:
    given, found = arrays(f"batch_norm{order}_backward", (3, 4, 2, 5), affine)
    dy, weight = given["dy"], given["weight"]
    axes = (0, 2, 3)
    xhat, rstd = centred(given["x"], given["eps"], axes)
    scaled = dy if weight is None else dy * weight[:, None, None]
    expected = [centred_gradient(scaled, xhat, rstd, axes)]
    expected += [] if weight is None else [(dy * xhat).sum(axes)]
    expected += [dy.sum(axes)] if given["bias"] is not None else []
    close(found, expected)


def test_weight_norm() -> None:
    """dg: the gradient along v; dv: what is left across it, as long as g / ‖v‖ makes it."""
    given, found = arrays("weight_norm_backward", (5, 33))
    v, g, dw = given["v"], given["g"][:, None], given["dy"]
    norm = np.sqrt((v * v).sum(1, keepdims=True))
    unit = v / norm
    dg = (dw * unit).sum(1, keepdims=True)
    close(found, [g / norm * (dw - unit * dg), dg[:, 0]])


@pytest.mark.parametrize("token", ["", "_token"])
def test_adaptive_layer_norm(token: str) -> None:
    given, found = arrays(f"adaptive_layer_norm{token}_backward", (2, 3, 17))
    dy, scale = given["dy"], given["scale"]
    xhat, rstd = centred(given["x"], given["eps"], (2,))
    dx = centred_gradient(dy * (1 + scale), xhat, rstd, (2,))
    dscale, dshift = dy * xhat, dy
    if not token:
        dscale, dshift = dscale.sum(1, keepdims=True), dshift.sum(1, keepdims=True)
    close(found, [dx, dscale, dshift])


def test_dynamic_tanh() -> None:
    given, found = arrays("dynamic_tanh_backward", (5, 33))
    x, dy, alpha, weight = (given[name] for name in ("x", "dy", "alpha", "weight"))
    t = np.tanh(alpha * x)
    inner = dy * weight * (1 - t * t)
    dalpha = (inner * x).sum().reshape(1)
    close(found, [inner * alpha, dalpha, (dy * t).sum(0), dy.sum(0)])
