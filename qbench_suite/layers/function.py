"""QuantFunction: a function call of a model, such as a residual add, that computes on the grid."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from qbench_suite.layers.quantizing import Quantizing, Role, RoleQuantizers


class QuantFunction(Quantizing, ABC):
    """One call site of a function in a model, computed on fake-quantized tensors.

    Functions that a model calls, rather than modules that it holds, are found while it runs. Each
    call site, for instance the residual add of ``layer1.0``, becomes an instance of the class that
    names the function; ``call`` then runs in place of it at every forward.
    """

    #: What call sites are named after, and policies call the type: ``add`` in ``layer1.0:add``.
    kind: ClassVar[str] = ""
    #: Dotted names of the functions and methods replaced, as ``torch.nn.functional.relu`` or
    #: ``torch.Tensor.softmax``; those that this version of torch lacks are passed over.
    functions: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[tuple[Role, ...]] = (Role.INPUT,)

    def __init__(self, quantizers: RoleQuantizers, *, feature_axis: int | None = None) -> None:
        self.set_up(quantizers, feature_axis)

    @classmethod
    def misfit(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Why this call is left alone, as it computes something else; empty where it is replaced.

        An addition of a number, for instance, is no residual add.
        """
        del function, args, kwargs
        return ""

    @abstractmethod
    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """What ``function(*args, **kwargs)`` gives, on quantized tensors; never in place."""


@functools.cache
def resolve_function(dotted: str) -> Callable[..., Any] | None:
    """The function of that dotted name, as torch hands it to a function mode; None where absent."""
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        return found if callable(found) else None
    return None
