"""Leaving: the result of a layer as it leaves it, after whatever was hooked on to the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qbench_suite.layers import Quantized, Role

#: Roles of what a layer gives.
RESULT_ROLES = frozenset({Role.ACT, Role.OUTPUT})


class Leaving:
    """Holds back the result that a layer quantized last, to have it checked as it leaves the layer.

    ``check`` gets each result once: with the values that leave where the layer gives just these, laid
    out as they were quantized; as quantized where they go on within the layer, where the layer is no
    module, and where a hook gives another number of elements, which no scale belongs to.
    """

    def __init__(self, layer: object, check: Callable[[Quantized], None]) -> None:
        self._module = layer if isinstance(layer, nn.Module) else None
        roles = (*getattr(layer, "roles", ()), *getattr(layer, "optional_roles", ()))
        #: Whether nothing is computed of an output within the layer.
        self._output_is_last = Role.ACT not in roles
        self._check = check
        self._held: Quantized | None = None
        self._given: tuple[Any, ...] = ()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it the first and the last forward hook of the layer are this one's."""
        if self._module is None:
            yield
            return
        handles = [
            self._module.register_forward_hook(self._before_hooks, prepend=True),
            self._module.register_forward_hook(self._after_hooks),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._release()

    def take(self, record: Quantized) -> None:
        """Look at something that the layer has quantized: what came before it was not its result."""
        self._release()
        if self._module is not None and record.role in RESULT_ROLES:
            self._held = record
        else:
            self._check(record)

    def _release(self) -> None:
        held, self._held, self._given = self._held, None, ()
        if held is not None:
            self._check(held)

    def _before_hooks(self, _: nn.Module, __: Any, output: Any) -> None:
        self._given = _parts(output)

    def _after_hooks(self, _: nn.Module, __: Any, output: Any) -> None:
        if self._held is None:
            return
        # A conversion counts the calls of functions in a forward; those of a check are none of it.
        with torch._C.DisableTorchFunction():
            self._held = self._as_it_leaves(self._held, _parts(output))
            self._release()

    def _as_it_leaves(self, record: Quantized, leaving: tuple[Any, ...]) -> Quantized:
        values = record.result.values
        for given, left in zip(self._given, leaving, strict=False):
            if not isinstance(given, Tensor) or not isinstance(left, Tensor):
                continue
            if not given.numel() == left.numel() == values.numel():
                continue
            is_view = _is_view(given, values)
            if is_view or self._is_made_of(record, given):
                laid = _laid_out(values, given, left) if is_view else left
                result = replace(record.result, values=laid.detach().reshape(values.shape))
                return replace(record, result=result)
        return record

    def _is_made_of(self, record: Quantized, given: Tensor) -> bool:
        """Whether the layer gives a changed copy of an output that it has quantized."""
        is_output = record.role is Role.OUTPUT and self._output_is_last
        return is_output and given.shape == record.result.values.shape


def _parts(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def _is_view(given: Tensor, values: Tensor) -> bool:
    if given.layout != values.layout or given.dtype != values.dtype:
        return False
    return given.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


def _laid_out(values: Tensor, given: Tensor, left: Tensor) -> Tensor:
    """``left``, laid out as ``given``, which is a view of ``values``, in the layout of these."""
    if given.shape == values.shape and given.stride() == values.stride():
        return left
    laid = torch.empty_strided(values.shape, values.stride(), dtype=left.dtype, device=left.device)
    offset = given.storage_offset() - values.storage_offset()
    laid.copy_(values)
    laid.as_strided(given.shape, given.stride(), offset).copy_(left.reshape(given.shape))
    return laid
