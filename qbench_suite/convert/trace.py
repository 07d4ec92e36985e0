"""Trace: what one forward of a model reached, computed and passed on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from qbench_suite.convert.flow import FeatureAxes, Flow
from qbench_suite.convert.functions import Function, FunctionTable, tensors_in
from qbench_suite.convert.interception import CallKey, Interception, Visitor
from qbench_suite.convert.operations import (
    BLANK,
    FILLS,
    Operations,
    Storages,
    address_of,
    computes,
    decomposed,
    products,
)
from qbench_suite.convert.replacements import UNSEEN
from qbench_suite.convert.sites import Twin
from qbench_suite.errors import ConversionError
from qbench_suite.layers import QuantFunction, QuantModule


@dataclass
class Reached:
    """A module or call that a forward reached."""

    name: str
    kind: Literal["module", "function"]
    type: str
    #: Name of the module, or of the one whose forward makes the call.
    module: str
    order: int
    twin: Twin | None = None
    reason: str = ""
    feature_axis: int | None = None
    #: Of the whole batch.
    multiply_adds: int = 0
    weight_elements: int = 0
    #: Whether it made new numbers.
    computes: bool = False
    #: Shapes of the first tensor it read and gave; empty where there was none.
    read: tuple[int, ...] = ()
    gave: tuple[int, ...] = ()


@dataclass
class Trace:
    """One forward: what it reached, and what it gave."""

    #: By name, in order of execution.
    reached: dict[str, Reached]
    #: (conv or linear layer, norm) where nothing else reads the former.
    foldable: tuple[tuple[str, str], ...]
    #: Shapes of the images and of the first tensor of the output.
    images: tuple[int, ...]
    output: tuple[int, ...]
    #: Names of all modules that ran.
    ran: frozenset[str]


@dataclass
class _Tracer(Visitor):
    """Fills a trace during one forward."""

    twins: Mapping[str, tuple[type[QuantModule], int | None]]
    functions: FunctionTable
    parameters: dict[int, int]
    reached: dict[str, Reached] = field(default_factory=dict)
    #: What is made of the images.
    images: Storages = field(default_factory=Storages)
    flow: Flow = field(default_factory=Flow)
    axes: FeatureAxes = field(default_factory=FeatureAxes)
    ran: Counter[str] = field(default_factory=Counter)
    #: Modules that are running, innermost last.
    paths: list[str] = field(default_factory=list)
    #: Sites that are running, innermost last.
    active: list[Reached] = field(default_factory=list)

    def enter(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.paths.append(path)
        self.ran[path] += 1
        if path in self.twins:
            site = self._site(path, "module", type(module).__name__, path)
            site.twin, site.feature_axis = self.twins[path]
            site.read = _shape((args, kwargs))
            self.active.append(site)

    def leave(self, path: str, module: nn.Module, output: Any) -> None:
        self.paths.pop()
        if path in self.twins:
            self.active.pop().gave = _shape(output)
        self.flow.produced(path, module, output)
        self.axes.told_by(module)

    def call(
        self,
        key: CallKey,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Function,
    ) -> Any:
        make = super().call if self.active else self._call_site
        result = make(key, function, args, kwargs, run)
        if tensors_in((result,)):
            self.flow.consumed(key.module, (args, kwargs))
        return result

    def _call_site(
        self,
        key: CallKey,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Function,
    ) -> Any:
        site = self._site(str(key), "function", key.kind, key.module)
        if site.twin is None:
            site.twin, site.reason = self._twin(function, args, kwargs)
            site.feature_axis = self.axes.of(tensors_in((args, kwargs)))
            site.read = _shape((args, kwargs))
        for tensor in tensors_in((args, kwargs)):
            site.weight_elements += self.parameters.pop(address_of(tensor), 0)
        self.active.append(site)
        try:
            result = run(*args, **kwargs)
        finally:
            self.active.pop()
        site.gave = _shape(result)
        return result

    def _twin(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[type[QuantFunction] | None, str]:
        twin = self.functions.twin(function)
        if twin is None:
            name = getattr(function, "__name__", type(function).__name__)
            return None, f"no registered function replaces {name}"
        reason = twin.misfit(function, args, kwargs)
        return (None, reason) if reason else (twin, "")

    def _site(
        self, name: str, kind: Literal["module", "function"], type_name: str, module: str
    ) -> Reached:
        if name not in self.reached:
            order = len(self.reached)
            self.reached[name] = Reached(name, kind, type_name, module, order)
        return self.reached[name]

    def see(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Count an aten operation for the innermost site that is running.

        What is computed without the images, such as a mask, is no site, unless it multiplies and
        adds.
        """
        if not self.active:
            self.flow.consumed(":", (args, kwargs))
        depends = function.overloadpacket not in BLANK | FILLS and any(
            tensor in self.images for tensor in tensors_in((args, kwargs))
        )
        for tensor in tensors_in((result,)):
            self.images.mark(tensor, depends)
        if not computes(function, args, kwargs, result):
            return
        multiply_adds = sum(p.multiply_adds for p in products(function, args, kwargs, result))
        if not depends and not multiply_adds:
            return
        if self.active:
            site = self.active[-1]
        else:
            path = self.paths[-1] if self.paths else ""
            site = self._site(f"{path}:forward", "function", "forward", path)
            site.reason = UNSEEN
        site.computes = True
        site.multiply_adds += multiply_adds


def trace(
    model: nn.Module,
    images: Tensor,
    functions: FunctionTable,
    twins: Mapping[str, tuple[type[QuantModule], int | None]],
) -> Trace:
    """Run ``model`` once, in eval mode, without gradients, and say what it reached.

    ``twins``: the quantized layer and the feature axis of each module that is a site. The model is as
    it was afterwards, also where it raises: ``ConversionError`` then.
    """
    elements = {address_of(p): p.numel() for p in model.parameters()}
    tracer = _Tracer(twins, functions, elements)
    interception = Interception(model, functions)
    with ExitStack() as stack:
        for context in (_evaluating(model), decomposed(), interception.attached(tracer)):
            stack.enter_context(context)
        try:
            images = images.clone()
            tracer.images.mark(images)
            with Operations(tracer.see):
                output = model(images)
        except Exception as error:
            raise ConversionError(
                f"A model runs on a batch of images; {type(model).__name__} raised "
                f"{type(error).__name__}: {error} on shape {tuple(images.shape)}. Pass images as the "
                "model takes them."
            ) from error
    tracer.flow.consumed("", (output,))
    once = {path for path, times in tracer.ran.items() if times == 1}
    return Trace(
        reached=tracer.reached,
        foldable=tracer.flow.foldable(model, once),
        images=tuple(images.shape),
        output=_shape(output),
        ran=frozenset(tracer.ran),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _shape(values: Any) -> tuple[int, ...]:
    found = tensors_in((values,))
    return tuple(found[0].shape) if found else ()
