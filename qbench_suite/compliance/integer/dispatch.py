"""The dispatch audit: every operation of a module while it runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from qbench_suite.compliance.integer.audit import FloatUse, IntegerAudit, listed
from qbench_suite.compliance.integer.floats import floats_among, is_opaque, why_float
from qbench_suite.compliance.integer.kernels import python_kernel
from qbench_suite.compliance.integer.leaving import (
    calls_that_leave,
    leaves_by_result,
    method_that_leaves,
)
from qbench_suite.errors import ConversionError

_TO_FLOAT = {"__float__": "float", "__complex__": "complex"}


@torch.no_grad()
def audit_dispatch(module: nn.Module, *inputs: Any) -> IntegerAudit:
    """Run ``module(*inputs)`` and look at each operation: no float goes in and none comes out.

    A finding is an operation that takes or gives a tensor of another type than int8…64, uint8…64 and
    bool, or takes a Python float. Seen are all operations of torch in this thread, those within
    others and within operators written in Python included, and elements that leave as Python floats.
    Not seen, and named in ``opaque``, is what compiled operators of other libraries compute, what a
    thread computes that is started meanwhile, and what becomes of elements that leave torch: to Python
    numbers, text, shapes, NumPy, or a pointer for native code.
    Raises ``ConversionError`` where the module does not run.
    """
    seen = _Seen()
    for place, given in enumerate(inputs):
        seen.note(f"input {place}", why_float(floats_among(given), ()))
    try:
        with _names(module, seen), _Functions(seen), _Operations(seen), calls_that_leave(seen.lose):
            given = module(*inputs)
    except Exception as error:
        raise ConversionError(
            f"A module that is audited runs on its inputs; {type(module).__name__} raised "
            f"{type(error).__name__}: {error}. Pass inputs of the shapes and types that it takes."
        ) from error
    seen.note("output", why_float((), floats_among(given)))
    return IntegerAudit(
        name="dispatch",
        unit="operations",
        looked_at=sum(seen.operations.values()),
        findings=tuple(FloatUse(*key, count=n) for key, n in seen.findings.items()),
        opaque=dict(seen.opaque),
        places={name: frozenset(found) for name, found in seen.places.items()},
        entered=frozenset(seen.entered),
        notes=listed("operations", seen.listing()),
    )


class _Seen:
    """What has been met so far, and the module that is running."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.findings: Counter[tuple[str, str, str]] = Counter()
        self.opaque: Counter[str] = Counter()
        self.places: defaultdict[str, set[str]] = defaultdict(set)
        self.entered: set[str] = set()
        self.running: list[str] = [""]

    def note(self, what: str, why: str) -> None:
        if why:
            self.findings[what, why, self.running[-1]] += 1

    def lose(self, name: str) -> None:
        self.opaque[name] += 1
        self.places[name].add(self.running[-1])

    def listing(self) -> Iterator[str]:
        return (f"{name} {count}" for name, count in self.operations.most_common())


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what reaches a kernel."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Arguments first: an operation may write into them.
        arguments = floats_among((args, kwargs))
        keys = python_kernel(func, (args, kwargs)) if is_opaque(func) else None
        if keys is None:
            result = func(*args, **(kwargs or {}))
        else:
            with self, _Functions(self._seen):
                result = func.redispatch(keys, *args, **(kwargs or {}))
        self._seen.operations[str(func)] += 1
        self._seen.note(str(func), why_float(arguments, floats_among(result)))
        if keys is not None:
            self._seen.entered.add(str(func))
        elif is_opaque(func) or leaves_by_result(func, args, result):
            self._seen.lose(str(func))
        return result


class _Functions(TorchFunctionMode):
    """Sees what Python asks of tensors without an operation."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if method := method_that_leaves(func):
            self._seen.lose(method)
        elif name in _TO_FLOAT:
            self._seen.note(f"Tensor.{name}", f"gives a Python {_TO_FLOAT[name]}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _names(module: nn.Module, seen: _Seen) -> Iterator[None]:
    """Within it ``seen.running`` ends in the dotted name of the submodule that runs."""
    handles: list[RemovableHandle] = []

    def follow(part: nn.Module, name: str) -> None:
        def enter(*_: object) -> None:
            seen.running.append(name)

        def leave(*_: object) -> None:
            seen.running.pop()

        handles.append(part.register_forward_pre_hook(enter, prepend=True))
        handles.append(part.register_forward_hook(leave, always_call=True))

    for name, part in module.named_modules():
        if name:
            follow(part, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
