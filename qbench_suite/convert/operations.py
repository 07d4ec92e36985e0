"""Operations: what each aten operation of a forward does: multiplies and adds, computes, or moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from qbench_suite.convert.functions import tensors_in

aten = torch.ops.aten


class Product(NamedTuple):
    """A product of two tensors that an operation sums over."""

    multiply_adds: int
    #: What is multiplied; an operand that only the operation itself ever sees is absent.
    operands: tuple[Tensor, ...]


#: Operations that ``flop_registry`` does not count: the argument whose every element is used once.
_ONCE: dict[Any, int] = {aten.mv: 0, aten.dot: 0, aten.vdot: 0, aten.addmv: 1}
#: Operations whose first argument is added to a product of the two that follow.
_ADDED_TO = frozenset({aten.addmm, aten.baddbmm, aten.addmv, aten.addbmm})
#: Part of the names of fused attention: q, k and v come first.
_ATTENTION = ("scaled_dot_product", "_attention_forward")

#: Operations that leave values as they are, in another place, order, shape or dtype, or put zeros
#: beside them. Views need not be named.
MOVES: frozenset[Any] = frozenset(
    {aten._reshape_copy, aten._to_copy, aten._unsafe_view, aten.cat, aten.channel_shuffle}
    | {aten.clone, aten.col2im, aten.constant_pad_nd, aten.copy, aten.copy_, aten.embedding}
    | {aten.flip, aten.gather, aten.im2col, aten.index, aten.index_select, aten.lift_fresh}
    | {aten.masked_select, aten.native_channel_shuffle, aten.pixel_shuffle}
    | {aten.pixel_unshuffle, aten.reflection_pad2d, aten.repeat, aten.repeat_interleave}
    | {aten.replication_pad2d, aten.resize_, aten.roll, aten.rot90, aten.scalar_tensor}
    | {aten.select_scatter, aten.slice_scatter, aten.stack, aten.take_along_dim, aten.tril}
    | {aten.triu, aten.unfold_copy, aten.upsample_nearest2d, aten.view_copy, aten.zero_}
)
#: Operations that make zeros, or room that is yet to be written to.
BLANK = frozenset(
    {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
    | {aten.zeros, aten.zeros_like, aten.new_zeros}
)
#: Operations that fill memory with one number.
FILLS = frozenset({aten.full_like, aten.new_full, aten.ones_like, aten.new_ones})
_NO_ARITHMETIC = MOVES | BLANK | FILLS | {aten.fill, aten.fill_}


class Storages:
    """Memory of which something is so, by address.

    Every tensor that a forward makes comes from an operation that is seen, so that memory which is
    used again is judged again.
    """

    def __init__(self) -> None:
        self._addresses: set[int] = set()

    def mark(self, tensor: Tensor, so: bool = True) -> None:
        """Say whether it is so of the memory of ``tensor``."""
        if so:
            self._addresses.add(address_of(tensor))
        else:
            self._addresses.discard(address_of(tensor))

    def __contains__(self, tensor: Tensor) -> bool:
        return address_of(tensor) in self._addresses


def address_of(tensor: Tensor) -> int:
    """Where the memory that ``tensor`` is a view of begins."""
    return tensor.untyped_storage().data_ptr()


def products(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> list[Product]:
    """The products of an operation with their multiply-adds; none for most operations.

    Counts are half the floating point operations that ``torch.utils.flop_counter`` counts. Fused
    attention is two products: q · kᵀ, and attention weights, which nobody else sees, · v.
    """
    packet = function.overloadpacket
    count = flop_registry.get(packet)
    if count is None:
        if packet not in _ONCE:
            return []
        total = args[_ONCE[packet]].numel()
    else:
        total = count(*args, **kwargs, out_val=result) // 2
    if any(part in str(packet) for part in _ATTENTION):
        q, k, v = args[:3]
        scores = total * q.shape[-1] // (q.shape[-1] + v.shape[-1])
        return [Product(scores, (q, k)), Product(total - scores, (v,))]
    first = 1 if packet in _ADDED_TO else 0
    return [Product(total, (args[first], args[first + 1]))]


def computes(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
    """Whether an operation makes new floating point numbers out of given ones."""
    if function.is_view or function.overloadpacket in _NO_ARITHMETIC:
        return False
    read, made = tensors_in((args, kwargs)), tensors_in((result,))
    return any(x.is_floating_point() for x in read) and any(x.is_floating_point() for x in made)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows every aten operation to ``see`` once it has run."""

    def __init__(self, see: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then show it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._see(func, args, kwargs, result)
        return result


@contextmanager
def decomposed() -> Iterator[None]:
    """Without gradients, but not in inference mode, which hides what composite operations are of."""
    with torch.inference_mode(False), torch.no_grad():
        yield
