"""The graph audits: every node of the graph that torch.export, or torch.compile, makes of a module."""

from __future__ import annotations

import operator
import re
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from qbench_suite.compliance.integer.audit import FloatUse, IntegerAudit, listed
from qbench_suite.compliance.integer.floats import float_of, floats_among, is_opaque, why_float

#: What torch.compile calls the module itself.
_ROOT = re.compile(r"^L\['\w+'\]")
#: Nodes that compute nothing.
_VALUES = frozenset({"placeholder", "get_attr", "output"})


@torch.no_grad()
def audit_exported(module: nn.Module, *inputs: Any) -> IntegerAudit:
    """Look at each node of ``torch.export.export(module, inputs)``: all values are integers.

    Parameters, buffers and constants that a node reads count too, those that none reads are named in
    ``notes``. Operators of other libraries are named in ``opaque``. A module that cannot be exported
    gives an audit that was not run.
    """
    try:
        program = torch.export.export(module, inputs, strict=False)
    except Exception as error:
        return _not_run("exported", error)
    named = {spec.arg.name: spec.target or "" for spec in program.graph_signature.input_specs}
    look = _Look(named)
    look.at(program.graph_module)
    return look.audit("exported")


@torch.no_grad()
def audit_compiled(module: nn.Module, *inputs: Any) -> IntegerAudit:
    """Look at each node of the graph that ``torch.compile`` hands to its backend, in the same way.

    The module is traced whole: one with a part that torch.compile leaves to Python gives an audit
    that was not run.
    """
    from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
    from torch._dynamo.backends.common import aot_autograd

    look = _Look({})

    def record(graph: fx.GraphModule, _: Any) -> Callable[..., Any]:
        look.at(graph)
        call: Callable[..., Any] = make_boxed_func(graph.forward)
        return call

    def whole(*given: Any) -> Any:
        return module(*given)

    # Code of its own: what torch.compile keeps for the module's own forward is left as it is.
    code, cells = whole.__code__.replace(), whole.__closure__
    frame = types.FunctionType(code, whole.__globals__, "whole", None, cells)
    backend = aot_autograd(fw_compiler=record)
    try:
        torch.compile(frame, backend=backend, fullgraph=True, dynamic=False)(*inputs)
    except Exception as error:
        return _not_run("compiled", error)
    return look.audit("compiled")


class _Look:
    """What was met in one graph or several; ``named``: what a placeholder stands for."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._named = named
        self._nodes = 0
        self._findings: Counter[tuple[str, str, str]] = Counter()
        self._opaque: Counter[str] = Counter()
        self._places: defaultdict[str, set[str]] = defaultdict(set)
        self._unread: list[str] = []

    def at(self, program: fx.GraphModule) -> None:
        """Look at all nodes, those of branches and loops included."""
        parts = (part for part in program.modules() if isinstance(part, fx.GraphModule))
        for node in (node for part in parts for node in part.graph.nodes):
            self._nodes += node.op not in _VALUES
            if node.op in ("placeholder", "get_attr"):
                self._value(node)
            elif node.op != "output":
                self._operation(node)

    def audit(self, name: str) -> IntegerAudit:
        """All that was found."""
        findings = tuple(FloatUse(*key, count=n) for key, n in self._findings.items())
        return IntegerAudit(
            name,
            "operations",
            self._nodes,
            findings,
            opaque=dict(self._opaque),
            places={name: frozenset(found) for name, found in self._places.items()},
            notes=listed("float, and read by no operation", self._unread),
        )

    def _value(self, node: fx.Node) -> None:
        target = self._named.get(node.name, "")
        what = target or (node.name if node.op == "placeholder" else str(node.target))
        floats = [float_of(leaf) for leaf in tree_leaves(_value_of(node))]
        for why in filter(None, floats):
            if target and not node.users:
                self._unread.append(what)
            else:
                self._findings[what, f"is {why}", ""] += 1

    def _operation(self, node: fx.Node) -> None:
        read = [_value_of(argument) for argument in node.all_input_nodes]
        constants = [leaf for leaf in tree_leaves((node.args, node.kwargs)) if _plain(leaf)]
        result = [] if node.target is operator.getitem else floats_among(_value_of(node))
        why = why_float(floats_among((read, constants)), result)
        name = str(node.target)
        if isinstance(node.target, types.FunctionType | types.BuiltinFunctionType):
            name = node.target.__name__
        if why:
            self._findings[name, why, _module_of(node)] += 1
        if is_opaque(node.target):
            self._opaque[name] += 1
            self._places[name].add(_module_of(node))


def _plain(leaf: object) -> bool:
    return not isinstance(leaf, fx.Node)


def _value_of(node: fx.Node) -> object:
    """What the node was seen to give while it was traced."""
    return node.meta.get("val")


def _module_of(node: fx.Node) -> str:
    """The dotted name of the module that the node comes from; empty where that is not known."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = _ROOT.sub("", str(stack[-1][0])) if stack else ""
    return path.replace("_modules['", "").replace("']", "").lstrip(".")


def _not_run(name: str, error: Exception) -> IntegerAudit:
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return IntegerAudit(name, "operations", not_run=f"{type(error).__name__}: {said}")
