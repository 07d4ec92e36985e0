"""A linear case: a layer that computes in low precision, beside float32 and bfloat16 in one run."""

from __future__ import annotations

import copy
import functools
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qbench_suite.engine.paired import time_beside
from qbench_suite.errors import LayerError
from qbench_suite.linears import LinearEntry
from qbench_suite.metrics import error_metrics
from qbench_suite.results.linear_rows import LinearRow
from qbench_suite.timing import Timer, peak_bytes, synchronised

if TYPE_CHECKING:
    from qbench_suite.engine.arithmetic_grid import LinearCase
    from qbench_suite.engine.engine import Engine

_FLOAT_DTYPES = ("float32", "bfloat16")


class LinearLayers:
    """Float layers of random weights, and what entries make of them.

    Weights are normal with standard deviation 1/√in, so that outputs are of the magnitude of inputs;
    there is no bias, which would hide the error of the product. Those of the last size and the last
    layer made are kept: cases of one size follow one another.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        self.floats = functools.lru_cache(maxsize=1)(self._floats)
        self.built = functools.lru_cache(maxsize=1)(self._built)

    def inputs(self, rows: int, features: int) -> Tensor:
        """Normal inputs (rows, features) in float32."""
        generator = torch.Generator().manual_seed(self._seed + 1)
        return torch.randn(rows, features, generator=generator).to(self._device)

    def _floats(self, lengths: tuple[int, int]) -> dict[str, nn.Linear]:
        """The layer in float32, and rounded to bfloat16, by dtype."""
        out_features, in_features = lengths
        generator = torch.Generator().manual_seed(self._seed)
        # What nn.Linear fills a weight with costs more than drawing it does.
        linear = nn.Linear(in_features, out_features, bias=False, device="meta")
        linear = linear.to_empty(device="cpu").requires_grad_(False)
        linear.weight.normal_(0, in_features**-0.5, generator=generator)
        return {name: _in_dtype(linear, name).to(self._device) for name in _FLOAT_DTYPES}

    def _built(self, entry: LinearEntry, dtype: str, lengths: tuple[int, int]) -> nn.Module:
        floats = self.floats(lengths)
        linear = floats.get(dtype) or _in_dtype(floats["float32"], dtype)
        return entry.build(linear).eval().requires_grad_(False)


def _in_dtype(linear: nn.Linear, dtype: str) -> nn.Linear:
    return copy.deepcopy(linear).to(getattr(torch, dtype))


@torch.no_grad()
def run_linear_case(engine: Engine, case: LinearCase, row: LinearRow, timer: Timer) -> None:
    """Fill ``row``: error, bytes, latency and the ratios to the float layers, all in one run."""
    entry = engine.manager.linears.get(case.entry)
    entry.require(engine.device)
    row.out_features, row.in_features = case.lengths
    row.threads = torch.get_num_threads()
    layer = engine.linears.built(entry, case.dtype, case.lengths)
    x = engine.linears.inputs(case.rows, row.in_features).to(getattr(torch, case.dtype))
    floats = engine.linears.floats(case.lengths)
    y = layer(x)
    _check_output(case, x, y)
    kernel: Any = getattr(layer, "kernel", None)
    if kernel:
        row.kernel = kernel(case.rows)
    _measure_error(row, layer, x, y, floats)
    row.weight_bytes, row.fp32_weight_bytes = _bytes_of(layer), _bytes_of(floats["float32"])
    row.compression = row.fp32_weight_bytes / row.weight_bytes
    row.bytes_moved = row.weight_bytes + x.nbytes + y.nbytes
    call = synchronised(lambda: layer(x), engine.device)
    row.peak_bytes = peak_bytes(call, engine.device)
    _time(engine, row, layer, x, timer)
    _judge(engine, row)


def _check_output(case: LinearCase, x: Tensor, y: Tensor) -> None:
    shape = (case.rows, case.lengths[0])
    if tuple(y.shape) != shape or y.dtype != x.dtype:
        raise LayerError(
            f"A linear layer maps (rows, in) to (rows, out) in the dtype of its input; {case.entry} gave "
            f"{tuple(y.shape)} {y.dtype} where {shape} {x.dtype} was due. Mend its plugin."
        )


def _measure_error(
    row: LinearRow, layer: nn.Module, x: Tensor, y: Tensor, floats: dict[str, nn.Linear]
) -> None:
    reference = floats["float32"](x.float())
    error = error_metrics(reference, y.float())
    row.mse, row.sqnr_db, row.max_abs_err = error.mse, error.sqnr_db, error.max_abs_err
    row.nonfinite_count = error.nonfinite
    bf16 = floats["bfloat16"](x.bfloat16())
    row.bf16_sqnr_db = error_metrics(reference, bf16.float()).sqnr_db
    dequantize: Any = getattr(layer, "dequantize", None)
    if dequantize:
        weight = dequantize().float()
        row.weight_sqnr_db = error_metrics(floats["float32"].weight, weight).sqnr_db


def _time(engine: Engine, row: LinearRow, layer: nn.Module, x: Tensor, timer: Timer) -> None:
    inputs = {name: x.to(getattr(torch, name)) for name in _FLOAT_DTYPES}
    floats = engine.linears.floats((int(row.out_features or 0), x.shape[1]))
    others = {
        name: synchronised(functools.partial(floats[name], inputs[name]), engine.device)
        for name in _FLOAT_DTYPES
    }
    samples, beside = time_beside(synchronised(lambda: layer(x), engine.device), others, timer)
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if row.latency_ms is None:
        return
    fp32, bf16 = (beside[name] for name in _FLOAT_DTYPES)
    row.fp32_latency_ms, row.bf16_latency_ms = median(fp32) * 1e3, median(bf16) * 1e3
    pairs = list(zip(samples.seconds, fp32, bf16, strict=True))
    row.speedup_fp32 = median(f / s for s, f, _ in pairs)
    row.speedup_bf16 = median(b / s for s, _, b in pairs)
    row.gb_per_s = (row.bytes_moved or 0) / row.latency_ms * 1e-6


def _judge(engine: Engine, row: LinearRow) -> None:
    gate = engine.gates.min_sqnr_db(row.table, row.format, row.dtype, row.entry)
    row.min_sqnr_db = gate
    if row.nonfinite_count:
        row.reason = (
            f"Finite inputs and weights give finite outputs; {row.nonfinite_count} of {row.entry} are "
            "NaN or Inf. Check its kernel."
        )
    elif gate is not None and row.sqnr_db is not None and row.sqnr_db < gate:
        row.reason = (
            f"sqnr_db of {row.format} weights in {row.dtype} is at least {gate:g} dB; {row.entry} has "
            f"{row.sqnr_db:.2f} dB. Check its kernel, or use another gate table (--qbench-gates)."
        )
    row.outcome = "failed" if row.reason else "passed"


def _bytes_of(layer: nn.Module) -> int:
    """Bytes of parameters and buffers; those of a tensor made of others are theirs."""
    return sum(_nbytes(tensor) for tensor in (*layer.parameters(), *layer.buffers()))


def _nbytes(tensor: Tensor) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(_nbytes(getattr(tensor, name)) for name in names)
