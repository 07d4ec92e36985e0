"""A norm kernel by declaration: one ``.cu``, the order of its arguments, and how it is launched."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qbench_suite.errors import KernelError, NameNotFoundError
from qbench_suite.gpu import CudaSource, LaunchPlan, architecture_of
from qbench_suite.gpu.nvrtc import target_of
from qbench_suite.gpu.toolkit import headers
from qbench_suite.native.compiler import find_compiler
from qbench_suite.norms.expression import placeholders, word
from qbench_suite.norms.kernel import NormKernel
from qbench_suite.norms.operation import Inputs, NormOperation, Outputs, Thunk
from qbench_suite.norms.operations import NORM_OPERATIONS
from qbench_suite.norms.requirements import require_words
from qbench_suite.registry import near_misses

#: Lengths that a kernel and its launch go by, by name.
Sizes = Mapping[str, int]
#: How many: a number, the name of a size, or what a function makes of all sizes.
Rule = int | str | Callable[[Sizes], int]


def cuda_unavailable(device: torch.device) -> str:
    """Why no CUDA kernel runs on ``device``: no GPU, too old a one, no compiler; empty where they do."""
    try:
        architecture = architecture_of(device)
        if device.type == "cuda":
            target_of(architecture)
        elif find_compiler() is None or headers() is None:
            return "the emulator needs a C++ compiler and CUDA's headers (nvidia-cuda-runtime)"
    except KernelError as error:
        return str(error).rstrip(".")
    return ""


def cuda_norm_kernel(
    *,
    provider: str,
    operation: str | NormOperation,
    source: Path | str,
    function: str,
    arguments: tuple[str, ...],
    grid: Rule = "rows",
    block: Rule = 256,
    shared_bytes: Rule = 0,
    sizes: Mapping[str, Callable[[Inputs], int]] | None = None,
    **fields: Any,
) -> NormKernel:
    """The ``NormKernel`` that launches one kernel of ``source`` once a call.

    ``operation``: one of ``NORM_OPERATIONS`` by name, or an operation of the plugin's own.
    ``function``: the kernel's name in C++, with ``{x}`` where a template takes the type of the elements
    of ``x`` (any tensor's; ``void`` of one that an option leaves out) and ``{columns}`` where it takes
    a size: ``rms_norm<{x}, {columns}>``.

    ``arguments``: what the fields of the struct that the kernel takes hold, in order. A tensor's
    name, of an input or an output: its pointer, null where it is left out. An input that is a float:
    ``float``; that is an int, and a size: ``long long``. An output that is named as an input is, as
    running statistics are, goes by ``new_`` and its name. Outputs are allocated in each call, of the
    dtype, shape and memory order of torch's own.

    ``grid``, ``block``, ``shared_bytes``: blocks, threads of one, bytes of its dynamic shared memory,
    each a number, the name of a size, or a function of all sizes. Sizes: ``elements``, ``columns``
    (length of the last axis) and ``rows`` (elements by columns) of the first input tensor, for
    images also ``images``, ``channels`` and ``pixels``, the device's ``multiprocessors``, and those of
    ``sizes``, functions of the inputs.

    ``fields``: those of ``NormKernel`` that differ: ``dtypes``, ``affine``, ``misfit``, ``description``
    and so on. With no element, or a grid of 0, nothing is launched.

    Raises:
        NameNotFoundError: no such operation.
        KernelError: an output is not among the arguments; braces of ``function`` hold no name; a rule
            or a size is of another kind. When it is prepared: an argument, a placeholder or a rule
            names nothing, or something else than it takes; a function of sizes raises, or gives no
            integer; the source cannot be read or compiled.
    """
    declared = _Declared(
        provider,
        _operation(operation),
        CudaSource(Path(source)),
        function,
        arguments,
        {"grid": grid, "block": block, "shared_bytes": shared_bytes},
        sizes or {},
    )
    declared.check()
    return NormKernel(
        **{
            "provider": provider,
            "operation": declared.operation,
            "prepare": declared.prepare,
            "unavailable": cuda_unavailable,
            **fields,
        }
    )


def _operation(named: str | NormOperation) -> NormOperation:
    if isinstance(named, NormOperation):
        return named
    if named not in NORM_OPERATIONS:
        raise NameNotFoundError(
            f"A norm kernel computes an operation that exists; there is no {named!r}. "
            f"{near_misses(named, list(NORM_OPERATIONS))}"
        )
    return NORM_OPERATIONS[named]


@dataclass(frozen=True)
class _Declared:
    """What was declared."""

    provider: str
    operation: NormOperation
    source: CudaSource
    function: str
    arguments: tuple[str, ...]
    rules: Mapping[str, Rule]
    sizes: Mapping[str, Callable[[Inputs], int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ``KernelError`` for what no inputs would make right."""
        require_words(f"arguments of {self.operation.name}:{self.provider}", self.arguments)
        try:
            placeholders(self.function)
        except (TypeError, ValueError) as error:
            shown = f"{self.function!r}: {error}"
            raise self._error("has a function with names in closed braces", shown) from None
        for rule, given in self.rules.items():
            if isinstance(given, bool) or not (isinstance(given, int | str) or callable(given)):
                raise self._error(
                    f"has a {rule} that is an int, a size or a function", f"{given!r}"
                )
        for name, size in self.sizes.items():
            if not callable(size):
                raise self._error("has sizes that are functions of the inputs", f"{name}={size!r}")
        # An output that the kernel is not given would stay unwritten.
        for output in self.operation.outputs:
            if not {output, f"new_{output}"} & set(self.arguments):
                raise self._error("is given every output to write", f"{output!r} is not passed")

    def prepare(self, inputs: Inputs) -> Thunk:
        """Compile, look all names up, and return the call that allocates and launches."""
        first = next(value for value in inputs.values() if isinstance(value, Tensor))
        sizes = self._sizes(inputs, first)
        # Torch's own outputs say what to allocate; the meta device keeps all but their memory.
        outputs = [t.detach().to("meta") for t in self.operation.eager(inputs)()]
        named = self._named(inputs, sizes, outputs)
        launch = self._plan(named, sizes, first.device)
        struct = _struct([self._value(named, name) for name in self.arguments])
        places = {
            f"_{self.arguments.index(name)}": output
            for output, name in enumerate(self._output_names(inputs, len(outputs)))
            if name in self.arguments
        }

        def run(_: Inputs = inputs) -> Outputs:  # the struct points into the inputs: they stay
            made = tuple(torch.empty_like(t, device=first.device) for t in outputs)
            for place, output in places.items():
                setattr(struct, place, made[output].data_ptr())
            launch(struct)
            return made

        return run

    def _sizes(self, inputs: Inputs, first: Tensor) -> dict[str, int]:
        columns = first.shape[-1]
        found = {
            "elements": first.numel(),
            "columns": columns,
            "rows": math.prod(first.shape[:-1]),
            "multiprocessors": architecture_of(first.device).multiprocessors,
        }
        if self.operation.layout != "rows":
            found |= {
                "images": first.shape[0],
                "channels": first.shape[1],
                "pixels": math.prod(first.shape[2:]),
            }
        own = {
            name: self._worked_out(f"size {name}", size, inputs)
            for name, size in self.sizes.items()
        }
        return found | own

    def _output_names(self, inputs: Inputs, count: int) -> list[str]:
        """Names under which the first ``count`` outputs, which are all there are, are arguments."""
        return [
            f"new_{name}" if name in inputs else name for name in self.operation.outputs[:count]
        ]

    def _named(self, inputs: Inputs, sizes: Sizes, outputs: list[Tensor]) -> dict[str, Any]:
        """Everything that an argument or a placeholder may name."""
        absent = {name: None for name in self.operation.outputs if name not in inputs}
        made = dict(zip(self._output_names(inputs, len(outputs)), outputs, strict=True))
        return {**sizes, **absent, **made, **inputs}

    def _plan(self, named: Mapping[str, Any], sizes: Sizes, device: torch.device) -> LaunchPlan:
        words = {name: self._word(named, name) for name in placeholders(self.function)}
        expression = self.function.format_map(words)
        grid, block, shared = (self._amount(sizes, rule) for rule in self.rules)
        return self.source.function(expression).plan(
            grid=(grid if sizes["elements"] else 0, 1, 1),
            block=(block, 1, 1),
            shared_bytes=shared,
            device=device,
        )

    def _amount(self, sizes: Sizes, rule: str) -> int:
        given = self.rules[rule]
        if callable(given):
            return self._worked_out(rule, given, sizes)
        if isinstance(given, int):
            return given
        if given not in sizes:
            raise self._unknown(given, f"size of {rule}", sizes)
        return sizes[given]

    def _worked_out(
        self, what: str, function: Callable[[Any], Any], given: Mapping[str, Any]
    ) -> int:
        try:
            found = function(given)
        except KeyError as error:
            raise self._unknown(str(error.args[0]), f"name in {what}", given) from error
        except Exception as error:
            shown = f"{type(error).__name__}: {error}"
            raise self._error(f"has a {what} that is worked out", shown) from error
        try:
            return operator.index(found)
        except TypeError:
            raise self._error(f"has a {what} that is an integer", f"{found!r}") from None

    def _word(self, named: Mapping[str, Any], name: str) -> str:
        if name not in named:
            raise self._unknown(name, "placeholder", named)
        try:
            return word(named[name])
        except ValueError as error:
            raise self._error("has placeholders with a word in C++", f"{name}: {error}") from None

    def _value(self, named: Mapping[str, Any], name: str) -> Any:
        if name not in named:
            raise self._unknown(name, "argument", named)
        value = named[name]
        if value is None or isinstance(value, Tensor | int | float):
            return value
        raise self._error("passes tensors, integers and floats", f"{name} is {value!r}")

    def _unknown(self, name: str, what: str, known: Mapping[str, Any]) -> KernelError:
        return self._error(
            f"is declared with names of its operation; its {what} {name!r} is none",
            near_misses(name, list(known)).rstrip("."),
        )

    def _error(self, requirement: str, received: str) -> KernelError:
        return KernelError(
            f"A declared kernel {requirement}: {received} "
            f"({self.operation.name}:{self.provider}, {self.source.path.name}); correct the declaration."
        )


def _struct(values: list[Any]) -> ctypes.Structure:
    """``values`` as a C++ compiler would lay them out, in fields ``_0``, ``_1`` and so on."""
    fields = [(f"_{place}", _c_type(value)) for place, value in enumerate(values)]
    kind = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
    given = (value.data_ptr() if isinstance(value, Tensor) else value for value in values)
    struct: ctypes.Structure = kind(*given)
    return struct


def _c_type(value: Any) -> type:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p
    return ctypes.c_float if isinstance(value, float) else ctypes.c_longlong
