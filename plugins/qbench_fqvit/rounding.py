"""Rounding: the weights of integer blocks rounded anew by a rule that looks at their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qbench_fqvit.block import QuantTimmVitBlock
from qbench_fqvit.convert import IntegerPart
from qbench_fqvit.linear import TOP, QuantLinear
from qbench_suite import IntegerModel, RoundingProblem, RoundingRule

#: Which step a linear layer reads.
_READS = {"qkv": "norm1", "proj": "context", "fc1": "norm2", "fc2": "act"}
Progress = Callable[[str], None]


def _silent(name: str) -> None:
    """Report nothing."""


@torch.no_grad()
def round_weights(
    model: IntegerModel,
    rule: RoundingRule,
    batches: Sequence[Tensor],
    *,
    rows: int = 2048,
    seed: int = 0,
    progress: Progress = _silent,
) -> None:
    """Round every weight of the integer blocks of ``model`` by ``rule``, in order of execution.

    Each layer reads what the integers before it give, with the weights already rounded; its float
    counterpart reads what the float blocks give from the float input of its run of blocks on. The rule
    sees the moments of all inputs and a sample of ``rows`` of them; only weight codes and biases
    change. In memory are the inputs of one block on all ``batches``.

    Raises ``ConversionError`` for blocks that were loaded and so have no float weights, and what the
    rule raises.
    """
    for name, block in model.blocks.items():
        part = model.module.get_submodule(name)
        if not isinstance(block, QuantTimmVitBlock) or not isinstance(part, IntegerPart):
            continue
        if part.enters:
            shown = [_Shown(*pair) for pair in _entering(model.module, part, batches)]
        for layer in _READS:
            _round_layer(block, layer, rule, shown, rows=rows, seed=seed)
            progress(f"{name}.{layer}")
        shown = [_Shown(block(s.codes), block.float_original()(s.x)) for s in shown]


@dataclass(frozen=True)
class _Shown:
    """One batch at the input of a block: its codes, and what the float model has there."""

    codes: Tensor
    x: Tensor


def _entering(
    module: nn.Module, part: IntegerPart, batches: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """What enters ``part`` on every batch, as codes and as floats."""
    with _inputs(part) as seen:
        for batch in batches:
            module(batch)
            x = seen.pop()
            yield part.block.quantize_input(x), x.float()


@contextmanager
def _inputs(part: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


@dataclass
class _Inputs:
    """Moments of all inputs of a layer, and a sample of them beside the float ones."""

    moments: Tensor
    exact: list[Tensor] = field(default_factory=list)
    rough: list[Tensor] = field(default_factory=list)


def _round_layer(
    block: QuantTimmVitBlock,
    layer: str,
    rule: RoundingRule,
    shown: Sequence[_Shown],
    *,
    rows: int,
    seed: int,
) -> None:
    linear = block.get_quantized_layers()[layer]
    origin = linear.known_origin()
    inputs = _collect(block, layer, shown, -(-rows // len(shown)), seed)
    problem = RoundingProblem(
        weight=origin.weight[None],
        scale=origin.scale[:, None].expand_as(origin.weight)[None],
        zero_point=None,
        low=-TOP,
        high=TOP,
        moments=inputs.moments[None],
        inputs=torch.cat(inputs.rough)[None],
        float_inputs=torch.cat(inputs.exact)[None],
        seed=seed,
    )
    linear.set_codes(rule.round(problem)[0])


def _collect(
    block: QuantTimmVitBlock, layer: str, shown: Sequence[_Shown], rows: int, seed: int
) -> _Inputs:
    """What ``layer`` reads, in units of its codes, in the integer block and in the float one."""
    step, generator = _READS[layer], torch.Generator().manual_seed(seed)
    linear: QuantLinear = getattr(block, layer)
    size, zero_point = linear.weight.shape[1], linear.known_origin().zero_point
    found = _Inputs(torch.zeros(size, size, dtype=torch.float64))
    scale: Tensor = getattr(block.scales, step)
    for batch in shown:
        rough = (block.steps(batch.codes)[step].flatten(0, -2).int() - zero_point).float()
        exact = block.float_original().stages(batch.x)[step].flatten(0, -2) / scale
        found.moments += rough.double().T @ rough.double()
        chosen = torch.randperm(rough.shape[0], generator=generator)[:rows]
        found.rough.append(rough[chosen])
        found.exact.append(exact[chosen])
    return found
