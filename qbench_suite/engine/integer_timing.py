"""Latency of an integer block, and of a model of such blocks, beside their float twins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from qbench_suite.engine.halving import is_out_of_memory
from qbench_suite.engine.integer_blocks import Call
from qbench_suite.engine.paired import seconds_of, time_beside
from qbench_suite.layers.integer import IntegerBlock
from qbench_suite.results.integer_rows import IntegerRow
from qbench_suite.timing import Timer, synchronised

#: Rounds of the whole model after one that does not count; it is too slow for a timer's.
_ROUNDS = 3
#: A twin that runs, or why there is none.
Twin = tuple[Callable[[], object] | None, str]
#: Compiled twins of a float block, by the shape of its input: they cost a minute each.
_COMPILED: WeakKeyDictionary[nn.Module, dict[torch.Size, Twin]] = WeakKeyDictionary()


def time_block(
    row: IntegerRow,
    block: IntegerBlock,
    original: nn.Module,
    call: Call,
    timer: Timer,
    *,
    compiles: bool,
) -> None:
    """Fill the latencies of ``block`` and of its twins, timed before each of its rounds."""
    device, codes = call.x.device, block.quantize_input(call.x)
    others = {"fp32": lambda: original(*call.args, **call.kwargs)}
    bf16, row.uncompiled = _lowered(original, call)
    compiled = None
    if bf16 is not None:
        others["bf16"] = bf16
        compiled, row.uncompiled = _compiled(original, call) if compiles else (None, "left out")
    if compiled is not None:
        others["bf16_compiled"] = compiled
    calls = {name: synchronised(other, device) for name, other in others.items()}
    samples, beside = time_beside(synchronised(lambda: block(codes), device), calls, timer)
    row.threads = torch.get_num_threads()
    row.latency_ms, row.latency_min_ms = samples.median_ms, samples.min_ms
    row.latency_iqr_ms, row.rounds = samples.iqr_ms, len(samples.seconds)
    if samples.seconds:
        for name, seconds in beside.items():
            setattr(row, f"block_{name}_ms", median(seconds) * 1e3)
            setattr(row, f"speedup_{name}", _speedup(seconds, samples.seconds))


def time_model(row: IntegerRow, converted: nn.Module, original: nn.Module, images: Tensor) -> None:
    """Fill the latencies of the whole model, a few rounds of both in turn."""
    twin = synchronised(lambda: original(images), images.device)
    own = synchronised(lambda: converted(images), images.device)
    rounds = [(seconds_of(twin), seconds_of(own)) for _ in range(1 + _ROUNDS)]
    float_seconds, seconds = zip(*rounds[1:], strict=True)
    row.model_ms, row.model_fp32_ms = median(seconds) * 1e3, median(float_seconds) * 1e3
    row.model_speedup = _speedup(float_seconds, seconds)


def _speedup(float_seconds: Sequence[float], seconds: Sequence[float]) -> float:
    return median(f / s for f, s in zip(float_seconds, seconds, strict=True))


def _lowered(original: nn.Module, call: Call) -> Twin:
    """``call`` of a bfloat16 copy of the float block."""
    twin = copy.deepcopy(original).to(torch.bfloat16)
    return _running(twin, call)


def _compiled(original: nn.Module, call: Call) -> Twin:
    """The same, compiled once for each shape of the input."""
    made = _COMPILED.setdefault(original, {})
    shape = call.x.shape
    if shape not in made:
        twin = copy.deepcopy(original).to(torch.bfloat16)
        options: dict[str, Any] = {"freezing": True}
        # A whole graph or none: what falls back to eager would be timed as compiled.
        with torch._dynamo.config.patch(recompile_limit=256):
            made[shape] = _running(
                torch.compile(twin, fullgraph=True, dynamic=False, options=options), call
            )
    return made[shape]


def _running(twin: Callable[..., object], call: Call) -> Twin:
    """``twin`` bound to the call's arguments in bfloat16, once it has run; else why it does not."""
    args, kwargs = tree_map(_to_bf16, (call.args, dict(call.kwargs)))
    try:
        twin(*args, **kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        return None, f"{type(error).__name__}: {said}"
    return lambda: twin(*args, **kwargs), ""


def _to_bf16(value: object) -> object:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if is_float and isinstance(value, Tensor) else value
