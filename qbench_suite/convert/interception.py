"""Interception: sees every module and every function call of a forward, and knows their names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from qbench_suite.convert.functions import Function, FunctionTable, changed_tensor, reads_floats
from qbench_suite.errors import ConversionError
from qbench_suite.layers import QuantFunction, QuantModule


class CallKey(NamedTuple):
    """Which call of a forward: the same at every forward, however often its module is called."""

    #: Dotted name of the module whose forward makes the call.
    module: str
    kind: str
    #: The how-many-th call of that kind in one run of that module, from 1.
    ordinal: int

    def __str__(self) -> str:
        """``layer1.0:add``, ``layer1.0:add.2``."""
        suffix = f".{self.ordinal}" if self.ordinal > 1 else ""
        return f"{self.module}:{self.kind}{suffix}"


class Visitor:
    """Looks at the modules and calls of a forward; this one does nothing."""

    def enter(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """``module`` is about to run."""

    def leave(self, path: str, module: nn.Module, output: Any) -> None:
        """``module`` has run; ``output`` is None where it raised."""

    def call(
        self,
        key: CallKey,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Function,
    ) -> Any:
        """Make the call: ``run(*args, **kwargs)``."""
        return run(*args, **kwargs)


class _Frame:
    """One run of a module: its name, and how many calls of each kind it has made."""

    __slots__ = ("counts", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.counts: dict[str, int] = {}


class Interception(TorchFunctionMode):
    """The function mode of one model's forwards, and the hooks that tell it where it is.

    It is on while the model runs, and off within quantized modules: compiled kernels guard on the
    modes that are on, and would be compiled again. Calls in ``layers`` go to those. ``quiet``: names
    of further modules that it is off in.
    """

    def __init__(
        self,
        model: nn.Module,
        functions: FunctionTable,
        layers: Mapping[CallKey, FunctionLayer] | None = None,
        quiet: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.visitor: Visitor | None = None
        self._model = model
        self._functions = functions
        self._layers = layers or {}
        self._quiet = frozenset(quiet)
        self._frames: list[_Frame] = []
        #: For each quantized module that is running, whether it switched the mode off.
        self._pauses: list[bool] = []

    @contextmanager
    def attached(self, visitor: Visitor | None = None) -> Iterator[None]:
        """Within it forwards of the model are seen; afterwards the model is as it was."""
        handles = self.attach()
        before, self.visitor = self.visitor, visitor
        try:
            yield
        finally:
            self.visitor = before
            for handle in handles:
                handle.remove()
            self.reset()

    def attach(self) -> list[RemovableHandle]:
        """Put hooks on every module of the model; on none where one of them refuses."""
        handles: list[RemovableHandle] = []
        # Scripted modules refuse hooks by methods of their own, but run those that they have.
        before_of, after_of = nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook
        try:
            for path, module in self._model.named_modules():
                before, after = self._hooks(path, module)
                handles.append(before_of(module, before, prepend=True, with_kwargs=True))
                handles.append(after_of(module, after, with_kwargs=True, always_call=True))
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def reset(self) -> None:
        """Leave the mode and forget where the forward was, as one that was interrupted does."""
        self._frames.clear()
        self._pauses.clear()
        self._switch_off()

    def _hooks(self, path: str, module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
        layer = module if isinstance(module, QuantModule) else None
        quiet = layer is not None or path in self._quiet

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not path:
                self.reset()
                self.__enter__()  # type: ignore[no-untyped-call]
            self._frames.append(_Frame(path))
            if quiet:
                self._pauses.append(self._switch_off())
            if self.visitor is not None:
                self.visitor.enter(path, module, args, kwargs)
            if layer is not None and layer.record:
                return _own((args, kwargs))
            return None

        def after(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            if self.visitor is not None:
                self.visitor.leave(path, module, output)
            self._frames.pop()
            if quiet and self._pauses.pop():
                self.__enter__()  # type: ignore[no-untyped-call]
            if not path:
                self._switch_off()
            return _own(output) if layer is not None and layer.record else None

        return before, after

    def _switch_off(self) -> bool:
        """Leave the mode; whether it was on. It is not while one of its own calls is handled."""
        on = _get_current_function_mode() is self  # type: ignore[no-untyped-call]
        if on:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return on

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the call, and make it: by its layer where it has one."""
        kwargs = kwargs or {}
        kind = self._functions.kind(func)
        if not kind or not self._frames or not reads_floats(args, kwargs):
            return func(*args, **kwargs)
        frame = self._frames[-1]
        ordinal = frame.counts[kind] = frame.counts.get(kind, 0) + 1
        key = CallKey(frame.path, kind, ordinal)
        layer = self._layers.get(key)
        run = func if layer is None else _Run(layer, func, key)
        if self.visitor is not None:
            return self.visitor.call(key, func, args, kwargs, run)
        return run(*args, **kwargs)


class _Run:
    """A call made by its layer."""

    __slots__ = ("_function", "_key", "_layer")

    def __init__(self, layer: FunctionLayer, function: Function, key: CallKey) -> None:
        self._layer = layer
        self._function = function
        self._key = key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's result; written to the tensor that the float call would have changed.

        Raises ``ConversionError``, with the name of the site, where the layer raises.
        """
        layer, function = self._layer.layer, self._function
        if self._layer.misfits(function, args, kwargs):
            return function(*args, **kwargs)
        target = changed_tensor(function, args, kwargs)
        if layer.record:
            args, kwargs = _own((args, kwargs))
        try:
            result = layer.call(function, args, kwargs)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ConversionError(
                f"A function's twin computes what the function does; {type(layer).__name__} at "
                f"{str(self._key)!r} raised {type(error).__name__}: {error} Mend the plugin, or exclude "
                "the site in the policy."
            ) from error
        if target is not None:
            return target.copy_(result)
        return _own(result) if layer.record else result


class FunctionLayer:
    """The layer of a call site, and which calls there it takes.

    Another run of the module may make a call that the layer does not compute. To ask at every call
    could mean to read all values, so each sort of arguments is asked about once.
    """

    def __init__(self, layer: QuantFunction) -> None:
        self.layer = layer
        self._known: dict[tuple[object, ...], bool] = {}

    def misfits(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call is left alone."""
        sort = (function, *map(_sort, args), *kwargs, *map(_sort, kwargs.values()))
        if sort not in self._known:
            self._known[sort] = bool(self.layer.misfit(function, args, kwargs))
        return self._known[sort]


def _sort(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.dtype, value.dim(), value.numel() == 1, isinstance(value, nn.Parameter)
    return value if isinstance(value, (bool, str)) else type(value)


def _own(values: Any) -> Any:
    """``values`` with copies of their tensors: a model that works in place changes no record then."""
    return tree_map_only(Tensor, _copy, values)


def _copy(tensor: Tensor) -> Tensor:
    # A layer knows weights by their identity.
    weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
    return tensor if weight else tensor.clone()
