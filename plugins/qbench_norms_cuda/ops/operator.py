"""Operator: a function that torch compiles, exports and differentiates as one operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from qbench_suite import KernelError

#: ``torch.ops.qbench_norms``.
LIBRARY = torch.library.Library("qbench_norms", "DEF")  # type: ignore[no-untyped-call]

#: What is launched at once; any other subclass of Tensor has a word to say first.
_PLAIN = (Tensor, torch.nn.Parameter)


class Operator:
    """An operation of ``torch.ops.qbench_norms``, called past torch's dispatcher wherever that is the same.

    The dispatcher with its autograd in Python takes longer than a small kernel runs. So ``run`` is
    called at once where all tensors are plain, none a negative view (``c.conj().imag``), and nothing
    looks on (no compilation, no tracing, no transform, no dispatch mode), within an
    ``autograd.Function`` of its own where a gradient is wanted; else ``torch.ops`` gets the call. Both
    compute the same.

    ``schema``: as torch.library has it, name first. ``run(*args)``: the outputs; of one that there is
    not, None, which ``torch.ops`` gives as an empty tensor. ``fake(*args)``: likewise, without data.
    ``setup(ctx, inputs, output)`` and ``backward(ctx, *gradients)``: as in ``autograd.Function``;
    without them there is no gradient. ``plain``: ``run`` for when no gradient is wanted, where that
    saves work; it may leave out outputs at the end.
    """

    def __init__(
        self,
        schema: str,
        run: Callable[..., Any],
        fake: Callable[..., Any],
        *,
        setup: Callable[..., None] | None = None,
        backward: Callable[..., Any] | None = None,
        plain: Callable[..., Any] | None = None,
    ) -> None:
        name = schema[: schema.index("(")]
        LIBRARY.define(  # type: ignore[no-untyped-call]
            schema, tags=(torch.Tag.pt2_compliant_tag,)
        )
        LIBRARY.impl(  # type: ignore[no-untyped-call]
            name, _without_none(run), "CompositeExplicitAutograd"
        )
        torch.library.register_fake(f"qbench_norms::{name}", _without_none(fake), lib=LIBRARY)
        self.run = run
        self.plain = plain or run
        self.function = None
        if setup is not None and backward is not None:
            once = _once(backward)
            torch.library.register_autograd(
                f"qbench_norms::{name}", once, setup_context=setup, lib=LIBRARY
            )
            self.function = _function(run, setup, once)
        #: The operation as graphs show it.
        self.overload = getattr(torch.ops.qbench_norms, name).default

    def __call__(self, *args: Any) -> Any:
        """The outputs."""
        if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or _transformed(args):
            return self.overload(*args)
        if torch._C._is_tracing():
            return self.overload(*args)
        wanted = False
        for value in args:
            if type(value) in _PLAIN:
                if value.is_neg():  # memory has the other sign, which the dispatcher sees to
                    return self.overload(*args)
                wanted = wanted or value.requires_grad
            elif isinstance(value, Tensor):
                return self.overload(*args)
        if wanted and self.function is not None and torch.is_grad_enabled():
            return self.function.apply(*args)
        return self.plain(*args)


def _transformed(args: tuple[Any, ...]) -> bool:
    """Whether torch.func or vmap are at work.

    Raises:
        KernelError: one of ``args`` has a forward-mode gradient, which would be lost.
    """
    if forward_ad._current_level >= 0:
        tensors = (value for value in args if isinstance(value, Tensor))
        for tensor in tensors:
            dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
            if dual.tangent is not None:
                raise KernelError(
                    "norms have gradients in reverse mode; one of the tensors has a forward-mode "
                    "gradient; use backward(), or torch's own norm."
                )
    return torch._C._functorch.maybe_current_level() is not None


class _Last(torch.autograd.Function):
    """Hands a gradient on that has no gradient itself, by none of the tensors that it is made of."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise KernelError(
            "gradients of norms have no gradients of their own; a second one was asked for; "
            "use torch's own norm where a loss is made of gradients."
        )


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """``backward``, after which a second gradient is an error instead of being left out."""

    def wrapped(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return found
        found = found if isinstance(found, tuple) else (found,)
        made_of = [t for t in (*gradients, *ctx.saved_tensors) if isinstance(t, Tensor)]
        return tuple(g if g is None else _Last.apply(g.detach(), *made_of) for g in found)

    return wrapped


def _without_none(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with an empty tensor for an output that there is not: a schema has a fixed number."""

    def filled(x: Tensor, *args: Any) -> Any:
        outputs = run(x, *args)
        if not isinstance(outputs, tuple):
            return outputs
        return tuple(x.new_empty(0) if output is None else output for output in outputs)

    return filled


def _function(
    run: Callable[..., Any], setup: Callable[..., None], backward: Callable[..., Any]
) -> Any:
    """An ``autograd.Function`` of these three; ``setup_context`` would take several times as long."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            outputs = run(*args)
            setup(ctx, args, outputs)
            return outputs

    Differentiable.backward = staticmethod(backward)  # type: ignore[method-assign]
    return Differentiable
