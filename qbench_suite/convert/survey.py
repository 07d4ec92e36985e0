"""survey: the sites of a model, found by running it once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qbench_suite.convert.adapters import adapter_of
from qbench_suite.convert.functions import FunctionTable
from qbench_suite.convert.replacements import FloatModule, Replacement, hooked, replacements
from qbench_suite.convert.sites import Site, Survey
from qbench_suite.convert.trace import Reached, Trace, trace
from qbench_suite.errors import LayerError
from qbench_suite.layers import QuantModule
from qbench_suite.manager import Manager


def survey(model: nn.Module, images: Tensor, manager: Manager) -> Survey:
    """The sites of ``model``, as one forward of ``images`` (N, C, H, W) reaches them.

    The forward is in eval mode, without gradients, and leaves the model as it is. Two images are
    enough. Raises ``ConversionError`` where the model does not run on them.
    """
    modules = _Modules(*replacements(model, manager))
    modules.settle()
    functions = FunctionTable(manager)
    found = trace(model, images, functions, modules.twins())
    _merge_leaves(found, model, modules)
    _count_parameters(found, model)
    sites = [_site(reached, i, len(images)) for i, reached in enumerate(_in_order(found))]
    sites += _never_called(found, model, modules, len(sites))
    adapter = adapter_of(found)
    stem, classifier = adapter.stem(found), adapter.classifier(found)
    return Survey(
        sites=tuple(sites),
        first=stem[0] if stem else "",
        last=classifier[-1] if classifier else "",
        family=adapter.family,
        multiply_adds=sum(site.multiply_adds for site in sites),
        stem=stem,
        classifier=classifier,
        foldable=found.foldable,
        functions=functions,
    )


@dataclass
class _Modules:
    """The modules of a model: those with a twin, and those without."""

    replaced: dict[str, Replacement]
    left: dict[str, FloatModule]

    def settle(self) -> None:
        """Drop what its twin refuses, and what belongs to the twin of a module around it.

        Within a module that has a twin, layers are sites of their own where the twin holds a module
        of the very same type under the same name: it calls that one, and so can call its twin.
        """
        inner: set[str] = set()
        for name in list(self.replaced):
            if name in inner:
                self.replaced.pop(name)
                continue
            replacement = self.replaced[name]
            try:
                twin = replacement.layer.from_float(
                    replacement.module, {}, feature_axis=replacement.feature_axis
                )
            except LayerError as error:
                self._leave(name, str(error))
                continue
            hidden = set(_hidden(name, replacement.module, twin))
            if why := _why_hooked(name, replacement.module, hidden):
                self._leave(name, why)
                continue
            inner |= hidden
            self.left = {path: why for path, why in self.left.items() if path not in hidden}

    def _leave(self, name: str, reason: str) -> None:
        """Let a module stay float."""
        type_name = type(self.replaced.pop(name).module).__name__
        self.left[name] = FloatModule(type_name, reason, loses_coverage=True)

    def twins(self) -> dict[str, tuple[type[QuantModule], int | None]]:
        """The layer and feature axis of each module with a twin."""
        return {name: (found.layer, found.feature_axis) for name, found in self.replaced.items()}


def _hidden(name: str, module: nn.Module, twin: nn.Module) -> Iterator[str]:
    """Names of the modules within ``module`` that its twin does not hold as they are."""
    held = dict(twin.named_modules())
    for path, child in module.named_modules():
        if path and type(held.get(path)) is not type(child):
            yield f"{name}.{path}"


def _why_hooked(name: str, module: nn.Module, hidden: set[str]) -> str:
    """Which hooks a twin would not run: its own, or of modules that it does not call."""
    if hooked(module):
        return "has forward hooks"
    inner = [path for path, child in module.named_modules() if path and hooked(child)]
    return next((f"{path} has forward hooks" for path in inner if f"{name}.{path}" in hidden), "")


def _merge_leaves(found: Trace, model: nn.Module, modules: _Modules) -> None:
    """Make a module without children one site, where none of the calls in it has a twin.

    So is a scripted module, with whatever is in it.
    """
    calls: dict[str, list[Reached]] = {}
    for site in found.reached.values():
        if site.kind == "function" and site.computes:
            calls.setdefault(site.module, []).append(site)
    for path, sites in calls.items():
        why = modules.left.get(path)
        if why is None or not path or any(site.twin for site in sites):
            continue
        module = model.get_submodule(path)
        if not isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.children()):
            continue
        for site in sites:
            found.reached.pop(site.name)
        found.reached[path] = Reached(
            name=path,
            kind="module",
            type=why.module_type,
            module=path,
            order=min(site.order for site in sites),
            reason=why.reason,
            multiply_adds=sum(site.multiply_adds for site in sites),
            computes=True,
            read=sites[0].read,
            gave=sites[-1].gave,
        )


def _count_parameters(found: Trace, model: nn.Module) -> None:
    """Give module sites the elements of their parameters, less those of sites within them."""
    sites = {name for name, site in found.reached.items() if site.kind == "module"}
    for name in sites:
        for path, parameter in model.get_submodule(name).named_parameters():
            parts = f"{name}.{path}".split(".")
            owners = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
            if next(owner for owner in owners if owner in sites) == name:
                found.reached[name].weight_elements += parameter.numel()


def _in_order(found: Trace) -> list[Reached]:
    """What was reached and is a site: modules with a twin, and whatever computes."""
    sites = [site for site in found.reached.values() if site.computes or site.kind == "module"]
    return sorted(sites, key=lambda site: site.order)


def _site(reached: Reached, order: int, images: int) -> Site:
    return Site(
        name=reached.name,
        kind=reached.kind,
        type=reached.type,
        twin=reached.twin,
        reason=reached.reason,
        order=order,
        multiply_adds=reached.multiply_adds // images,
        weight_elements=reached.weight_elements,
        feature_axis=reached.feature_axis,
    )


def _never_called(found: Trace, model: nn.Module, modules: _Modules, order: int) -> Iterator[Site]:
    """Modules that would compute something, had the forward called them."""
    for name in sorted({*modules.replaced, *modules.left} - found.ran - {"(model)"}):
        module = model.get_submodule(name)
        elements = sum(parameter.numel() for parameter in module.parameters())
        if elements or name in modules.replaced:
            yield Site(
                name=name,
                kind="module",
                type=type(module).__name__,
                twin=None,
                reason="never called",
                order=order,
                multiply_adds=0,
                weight_elements=elements,
            )
            order += 1
