"""A layer case: the quantized layer against the float layer, on the input the model gives it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from qbench_suite.compliance import check_grid
from qbench_suite.engine.paired import time_paired
from qbench_suite.engine.references import first_tensor
from qbench_suite.errors import LayerError
from qbench_suite.layers import QuantModule, Role
from qbench_suite.metrics import error_metrics
from qbench_suite.results import LayerRow
from qbench_suite.timing import Timer, synchronised

if TYPE_CHECKING:
    from qbench_suite.engine.engine import Engine
    from qbench_suite.engine.grid import LayerCase
    from qbench_suite.engine.references import Reference


@torch.no_grad()
def run_layer_case(engine: Engine, case: LayerCase, row: LayerRow, timer: Timer) -> None:
    """Fill ``row``: error, ranges, compliance, bits, latency, outcome."""
    model = engine.pool.get(case.model)
    if case.layer not in model.layers:
        raise LayerError(
            f"A layer case names a layer that a registered layer replaces; {case.layer!r} of "
            f"{case.model!r} is none. See `qbench list layers --models {case.model}`."
        )
    replacement = model.layers[case.layer]
    row.layer_type = type(replacement.module).__name__
    row.quant_type = replacement.layer.__name__
    reference = engine.references.get(model, case.layer)
    quantizers = engine.quantizers(case, replacement.layer)
    layer = replacement.layer.from_float(
        replacement.module, quantizers, feature_axis=replacement.feature_axis
    ).eval()
    row.dataset, row.batch = engine.dataset_of(model), reference.batch
    _describe_input(row, reference)
    layer.record = True
    output = layer(*reference.args, **reference.kwargs)
    layer.record = False
    _describe_output(row, reference, output)
    _describe_quantization(row, layer)
    layer.clear_record()
    call = synchronised(lambda: layer(*reference.args, **reference.kwargs), engine.device)
    float_call = synchronised(_float_call(replacement.module, reference), engine.device)
    time_paired(row, call, float_call, timer)
    _judge(engine, case, row)


def _describe_input(row: LayerRow, reference: Reference) -> None:
    spread = reference.input_range
    row.input_min, row.input_max, row.input_absmax = spread.min, spread.max, spread.absmax
    row.input_dynamic_range_db = spread.dynamic_range_db
    row.input_nan_count, row.input_inf_count = spread.nan_count, spread.inf_count


def _describe_output(row: LayerRow, reference: Reference, output: object) -> None:
    result = first_tensor(output)
    if result is None:
        raise LayerError(
            f"A quantized layer returns a tensor, or several, as its float twin does; {row.quant_type} "
            f"returned {type(output).__name__}. Mend its forward."
        )
    error = error_metrics(reference.output, result)
    row.mse, row.sqnr_db, row.cosine = error.mse, error.sqnr_db, error.cosine
    row.max_abs_err, row.output_nonfinite_count = error.max_abs_err, error.nonfinite


def _describe_quantization(row: LayerRow, layer: QuantModule) -> None:
    """Roles, bits and compliance of what was quantized in fact, not of what was asked for."""
    tensors = list(layer.quantized_tensors())
    if layer.quantizers and not tensors:
        raise LayerError(
            f"A quantized layer quantizes something; {row.quant_type} was given quantizers for "
            f"{', '.join(layer.quantizers)} and quantized nothing. Call self.quantize in its forward."
        )
    seen = {tensor.role for tensor in tensors}
    row.roles = ";".join(f"{role}={q}" for role, q in layer.quantizers.items() if role in seen)
    row.violations = 0
    for tensor in tensors:
        verdict = check_grid(tensor.result, tensor.source)
        row.violations += verdict.violations
        if verdict.violations and not row.violation:
            row.violation = f"{tensor.name}{verdict.examples[0]}"
        bits = tensor.result.bits_per_value
        if tensor.role is Role.WEIGHT and row.weight_bits_per_value is None:
            row.weight_bits_per_value = bits
            row.weight_nonfinite_count = int((~tensor.source.isfinite()).sum())
        elif tensor.role is Role.INPUT and row.input_bits_per_value is None:
            row.input_bits_per_value = bits
    row.compliant = row.violations == 0


def _float_call(module: torch.nn.Module, reference: Reference) -> Callable[[], object]:
    # An in-place float layer would change the reference under the next round.
    if not any(getattr(part, "inplace", False) for part in module.modules()):
        return lambda: module(*reference.args, **reference.kwargs)
    args, kwargs = copy.deepcopy((reference.args, reference.kwargs))
    return lambda: module(*args, **kwargs)


def _judge(engine: Engine, case: LayerCase, row: LayerRow) -> None:
    gate = engine.gates.min_sqnr_db("layers", case.format, case.mode, row.layer_type)
    row.min_sqnr_db = gate
    if not row.compliant:
        row.outcome = "failed"
        row.reason = (
            f"Every quantized value is q · scale for a q of {case.format}; {row.violations} are not, "
            f"first {row.violation}. Check what took part: {engine.parties(case, row)}."
        )
    elif row.output_nonfinite_count:
        row.outcome = "failed"
        row.reason = (
            f"A finite output stays finite; {row.output_nonfinite_count} values of {case.layer} became NaN "
            f"or Inf in {row.roles}. Check the layer and the format's overflow."
        )
    elif gate is not None and row.sqnr_db is not None and row.sqnr_db < gate:
        row.outcome = "failed"
        row.reason = (
            f"sqnr_db of {case.format} in {case.mode} is at least {gate:g} dB on {row.layer_type}; got "
            f"{row.sqnr_db:.2f} dB. Use a finer mode, or another gate table (--qbench-gates)."
        )
    else:
        row.outcome = "passed"
