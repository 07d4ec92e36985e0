"""Integer blocks beside the float blocks that they replace: steps, proof, sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qbench_suite.compliance.integer import IntegerVerdict, audit_dispatch, audit_integer
from qbench_suite.compliance.rules import IntegerRules
from qbench_suite.errors import ConversionError
from qbench_suite.layers.integer import IntegerBlock
from qbench_suite.metrics import error_metrics
from qbench_suite.results.integer_rows import IntegerRow, IntegerStageRow

#: The step that stands for a whole block: its output less its input.
BRANCH = "branch"


@dataclass(frozen=True)
class Call:
    """What a float block was called with, and what it gave."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def x(self) -> Tensor:
        """The activations that it reads."""
        found = self.args[0] if self.args else next(iter(self.kwargs.values()))
        assert isinstance(found, Tensor)
        return found


def calls_of(model: nn.Module, names: Iterable[str], images: Tensor) -> dict[str, Call]:
    """The first call of each of these parts while ``model`` runs on ``images``.

    Raises ``ConversionError`` for a part that is not reached.
    """
    calls: dict[str, Call] = {}
    wanted = list(names)
    with _keeping(model, wanted, calls.setdefault):
        model(images)
    missing = [name for name in wanted if name not in calls]
    if missing:
        raise ConversionError(
            f"A block that is replaced runs in the float model; {', '.join(missing)} of "
            f"{type(model).__name__} did not. Mend the names in `blocks`."
        )
    return calls


@contextmanager
def _keeping(
    model: nn.Module, names: Iterable[str], keep: Callable[[str, Call], object]
) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        def kept(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            keep(name, Call(args, kwargs, output))

        return kept

    handles = [
        model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stage_rows(block: IntegerBlock, call: Call) -> Iterator[IntegerStageRow]:
    """A row a step of ``block`` on the input of the float block, and one of its branch last."""
    x = call.x
    codes = block.quantize_input(x)
    found, expected = block.stages(codes), block.float_stages(x)
    if list(found) != list(expected):
        raise ConversionError(
            f"stages and float_stages of a block have the same names in the same order; those of "
            f"{type(block).__name__} are {list(found)} and {list(expected)}. Mend the block."
        )
    for name, reference in expected.items():
        yield _compared(name, reference, found[name])
    output = block.dequantize_output(block(codes))
    # Blocks that change the shape have no branch that could be told from their output.
    skip = x if x.shape == output.shape else torch.zeros_like(output)
    yield _compared(BRANCH, call.output - skip, output - skip)


def _compared(stage: str, reference: Tensor, actual: Tensor) -> IntegerStageRow:
    error = error_metrics(reference, actual)
    return IntegerStageRow(
        stage=stage,
        mse=error.mse,
        sqnr_db=error.sqnr_db,
        cosine=error.cosine,
        max_abs_err=error.max_abs_err,
        nonfinite_count=error.nonfinite,
    )


def structures(blocks: Mapping[str, IntegerBlock], calls: Mapping[str, Call]) -> list[str]:
    """The first block of each structure: its class, the kinds of its state, the operations it runs."""
    first: dict[object, str] = {}
    for name, block in blocks.items():
        ran = audit_dispatch(block, block.quantize_input(calls[name].x))
        state = tuple((key, value.shape, value.dtype) for key, value in _tensors(block))
        first.setdefault((type(block), repr(block), state, str(ran)), name)
    return list(first.values())


def audited(block: IntegerBlock, call: Call, rules: IntegerRules) -> IntegerVerdict:
    """The verdict on ``block``, run on the codes of the float block's input."""
    codes = block.quantize_input(call.x)
    return audit_integer(block, codes, declared=rules.float_state, audits=rules.audits)


def describe_verdicts(row: IntegerRow, verdicts: Mapping[str, IntegerVerdict]) -> None:
    """What the audits of all structures came to, as columns; ``verdicts`` by block."""
    row.structures = len(verdicts)
    found = {verdict.integer_only for verdict in verdicts.values()}
    row.integer_only = False if False in found else None if None in found else True
    texts = []
    for name, verdict in verdicts.items():
        said = [audit.summary for audit in verdict.audits]
        said += [f"float {use}" for audit in verdict.audits for use in audit.findings[:1]]
        said += [f"not seen: {reason}" for reason in verdict.unseen]
        texts += [f"{name}: {text}" if len(verdicts) > 1 else text for text in said]
    row.audits = "; ".join(dict.fromkeys(texts))
    audits = [audit for verdict in verdicts.values() for audit in verdict.audits]
    libraries = {audit.file: audit for audit in audits if audit.file}.values()
    modules = [audit for audit in audits if not audit.file]
    row.audited_operations = sum(a.looked_at for a in modules if a.name == "dispatch")
    row.float_operations = sum(audit.floats for audit in modules)
    row.audited_instructions = sum(audit.looked_at for audit in libraries)
    row.float_instructions = sum(audit.floats for audit in libraries)


def state_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of the tensors in their state dicts."""
    tensors = (value for module in modules for _, value in _tensors(module))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in module.state_dict().items() if isinstance(v, Tensor)]
