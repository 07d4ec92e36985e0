"""watching: shows what each site of a model reads and gives while the model runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.overrides import _pop_mode_temporarily

from qbench_suite.convert.functions import Function, FunctionTable, changed_tensor, tensors_in
from qbench_suite.convert.interception import CallKey, Interception, Visitor
from qbench_suite.convert.sites import Survey
from qbench_suite.convert.swap import ConvertedModel
from qbench_suite.manager import Manager

#: Told a site's name, the tensors that it read and the first tensor that it gave.
Watch = Callable[[str, tuple[Tensor, ...], Tensor], None]


@contextmanager
def watching(model: nn.Module, survey: Survey, watch: Watch) -> Iterator[None]:
    """Within it, ``watch`` is called each time that a site of the survey has run, in ``model``.

    ``model``: the float model of the survey, or one converted from it. The tensors are not copied, but
    none changes later: what the model computes in place is copied before. The output is the first
    tensor that a site gives; a site that gives none is passed over, and so is a layer that a norm is
    folded into, whose own output there no longer is. Whatever happens within, the model is as it was
    afterwards.
    """
    if isinstance(model, ConvertedModel):
        names = {site.name for site in survey.sites} - model.folded_layers
        interception = model.interception
        before, interception.visitor = interception.visitor, _Watcher(names, watch)
        try:
            yield
        finally:
            interception.visitor = before
        return
    functions = survey.functions or FunctionTable(Manager())
    interception = Interception(model, functions, quiet=_quiet(model, survey))
    visitor = _Watcher({site.name for site in survey.sites}, watch)
    with interception.attached(visitor):
        yield


def _quiet(model: nn.Module, survey: Survey) -> set[str]:
    """Sites that hold no other and do nothing in place: they run as they do unwatched.

    Some modules compute in another way, with other last bits, while a function mode is on.
    """
    names = [site.name for site in survey.sites if site.kind == "module" and site.twin is not None]
    return {
        name
        for name in names
        if not any(other.startswith(f"{name}.") for other in names)
        and not any(getattr(part, "inplace", False) for part in model.get_submodule(name).modules())
    }


class _Watcher(Visitor):
    """Shows sites to ``watch``, and keeps what it has shown from changing."""

    def __init__(self, names: set[str], watch: Watch) -> None:
        self._names = names
        self._watch = watch
        self._shown = _Shown()
        self._calls: dict[CallKey, str] = {}
        #: What the modules that are running have read, innermost last.
        self._read: list[tuple[Tensor, ...]] = []

    def enter(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if path in self._names:
            self._read.append(self._shown.views((args, kwargs)))

    def leave(self, path: str, module: nn.Module, output: Any) -> None:
        if path in self._names:
            self._show(path, self._read.pop(), output)

    def call(
        self,
        key: CallKey,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Function,
    ) -> Any:
        name = self._calls.get(key)
        if name is None:
            name = self._calls[key] = str(key) if str(key) in self._names else ""
        read = self._shown.views((args, kwargs)) if name else ()
        changed = changed_tensor(function, args, kwargs)
        if changed is not None:
            self._shown.keep(changed)
        result = run(*args, **kwargs)
        if name:
            self._show(name, read, result)
        return result

    def _show(self, name: str, read: tuple[Tensor, ...], output: Any) -> None:
        given = self._shown.views((output,))
        if given:
            with _no_function_modes():
                self._watch(name, read, given[0])


@contextmanager
def _no_function_modes() -> Iterator[None]:
    """Within it, what is computed is no call of the model, and compiled reductions stay compiled."""
    with ExitStack() as stack:
        for _ in range(_len_torch_function_stack()):
            stack.enter_context(_pop_mode_temporarily())
        yield


class _Shown:
    """Tensors that were shown and may live on, by the memory they share with the model's own."""

    def __init__(self) -> None:
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}

    def views(self, values: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Views of the tensors in ``values``, fit to be shown."""
        views = tuple(tensor.detach() for tensor in tensors_in(values))
        for view in views:
            address = view.untyped_storage().data_ptr()
            alive = [ref for ref in self._views.get(address, ()) if ref() is not None]
            self._views[address] = [*alive, weakref.ref(view)]
        return views

    def keep(self, changed: Tensor) -> None:
        """``changed`` is about to be written to: what was shown of its memory gets its own."""
        for ref in self._views.pop(changed.untyped_storage().data_ptr(), ()):
            view = ref()
            if view is not None:
                view.data = torch.clone(view)
