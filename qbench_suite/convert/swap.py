"""convert: a copy of a model that computes on the grid wherever its assignments say so."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qbench_suite.convert.folding import NOTHING, Folded, fold
from qbench_suite.convert.functions import FunctionTable
from qbench_suite.convert.interception import CallKey, FunctionLayer, Interception
from qbench_suite.convert.sites import Survey
from qbench_suite.errors import ConversionError, QBenchError
from qbench_suite.layers import QuantFunction, QuantModule, Role
from qbench_suite.layers.quantizing import Quantizing
from qbench_suite.manager import Manager

if TYPE_CHECKING:
    from qbench_suite.convert.assign import Assignment

#: Roles of what a layer gives, which a norm that is folded still does.
_RESULTS = (Role.ACT, Role.OUTPUT)


class ConvertedModel(nn.Module):
    """A model whose assigned sites compute on fake-quantized tensors, for inference.

    It runs like its float original, for batches of any size; nothing is differentiable. Sites that
    the survey did not know, and known ones that a forward does not reach, do no harm.
    """

    def __init__(
        self,
        model: nn.Module,
        assignments: Sequence[Assignment],
        layers: Mapping[str, Quantizing],
        interception: Interception,
        folded_layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        #: What was assigned to each site, in order of execution, and why others stayed float.
        self.assignments = tuple(assignments)
        #: The live layer or function call of each site that is quantized, by the site's name.
        self.layers: dict[str, Quantizing] = dict(layers)
        #: Layers that a norm is folded into: their output is that of the norm.
        self.folded_layers = frozenset(folded_layers)
        self.interception = interception
        interception.attach()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, without gradients."""
        try:
            with torch.no_grad():
                return self.model(*args, **kwargs)
        finally:
            self.interception.reset()


def convert(
    model: nn.Module,
    survey: Survey,
    assignments: Sequence[Assignment],
    *,
    fold_batch_norm: bool = False,
) -> ConvertedModel:
    """A copy of ``model`` in which each site without a reason to stay float runs its twin.

    ``fold_batch_norm``: first make batch norms part of the layer before them, where nothing else
    reads that; the norm's site then stays float, but for an activation function at its end. The copy
    shares nothing that changes with ``model``; float weights that a layer has quantized are not
    copied, as its record refers to those of ``model``. Raises ``ConversionError`` for a model that
    cannot be copied, and for a site that cannot be replaced, by name.
    """
    modules = {a.site.name for a in assignments if a.site.kind == "module"}
    folded = fold(model, survey, modules) if fold_batch_norm else NOTHING
    assignments = [_without_folded(a, folded) for a in assignments]
    layers: dict[str, Quantizing] = {}
    replaced: dict[str, nn.Module] = {**folded.layers, **folded.norms}
    calls: dict[CallKey, FunctionLayer] = {}
    for assignment in assignments:
        name, twin = assignment.site.name, assignment.site.twin
        if twin is None or (assignment.reason and not assignment.quantizers):
            continue
        layer = _layer(assignment, model, replaced)
        layers[name] = layer
        if isinstance(layer, nn.Module):
            replaced[name] = layer
        elif isinstance(layer, QuantFunction):
            calls[_key(name, layer.kind)] = FunctionLayer(layer)
    functions = survey.functions or FunctionTable(Manager())
    copied = _copy(model, replaced)
    interception = Interception(copied, functions, calls)
    return ConvertedModel(copied, assignments, layers, interception, tuple(folded.layers))


def _without_folded(assignment: Assignment, folded: Folded) -> Assignment:
    """``assignment``; that of a norm that is folded says so, and keeps what its result is given."""
    into = folded.into.get(assignment.site.name)
    if into is None:
        return assignment
    passing = folded.norms[assignment.site.name]
    kept = {} if isinstance(passing, nn.Identity) else _results(assignment)
    return replace(assignment, quantizers=kept, reason=f"folded into {into}")


def _results(assignment: Assignment) -> dict[Role, Any]:
    return {role: q for role, q in assignment.quantizers.items() if role in _RESULTS}


def _layer(assignment: Assignment, model: nn.Module, folded: Mapping[str, nn.Module]) -> Quantizing:
    site, quantizers = assignment.site, assignment.quantizers
    assert site.twin is not None
    try:
        if not issubclass(site.twin, QuantModule):
            return site.twin(quantizers, feature_axis=site.feature_axis)
        module = folded.get(site.name) or model.get_submodule(site.name)
        return site.twin.from_float(module, quantizers, feature_axis=site.feature_axis).eval()
    except (QBenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConversionError(
            f"A site with a twin can be replaced by it; {site.name!r} ({site.type}) as "
            f"{site.twin.__name__} raised {type(error).__name__}: {error}. Mend the plugin, or exclude "
            "the site in the policy."
        ) from error


def _key(name: str, kind: str) -> CallKey:
    """The call that a function site is named after."""
    module, _, call = name.rpartition(":")
    ordinal = call.removeprefix(kind).removeprefix(".")
    return CallKey(module, kind, int(ordinal or 1))


def _copy(model: nn.Module, replaced: Mapping[str, nn.Module]) -> nn.Module:
    """A deep copy of ``model`` with these modules in the places of those of the same name.

    A module that is used in several places is replaced in all of them. Modules within one that is
    replaced are put into that one.
    """
    outer = {name: new for name, new in replaced.items() if not _holder(name, replaced)}
    memo: dict[int, Any] = {id(model.get_submodule(name)): new for name, new in outer.items()}
    try:
        # With gradients the copies of scripted weights would be results, and no leaves.
        with torch.no_grad():
            copied = copy.deepcopy(model, memo)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ConversionError(
            f"A model is copied before it is converted; {type(model).__name__} raised "
            f"{type(error).__name__}: {error}. Keep no tensors of a past forward in the model."
        ) from error
    for name in sorted(set(replaced) - set(outer), key=lambda name: name.count(".")):
        copied.set_submodule(name, replaced[name])
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()


def _holder(name: str, replaced: Mapping[str, nn.Module]) -> str:
    """The replaced module that ``name`` lies within; empty where there is none."""
    parts = name.split(".")
    owners = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((owner for owner in owners if owner in replaced), "")
