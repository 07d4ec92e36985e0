"""Call: a function and its arguments, by name, whatever way they were passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

#: Other names that torch takes a keyword argument under, as NumPy has them.
_ALIASES = {"input": ("self", "x", "a", "x1"), "other": ("x2",), "dim": ("axis",)}


@dataclass(frozen=True)
class Call:
    """A function and its arguments; ``names`` are those of its positional parameters, in order."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument ``name``; ``default`` where it was not passed."""
        place = self._place(name)
        if place is None:
            return default
        return self.args[place] if isinstance(place, int) else self.kwargs[place]

    def put(self, name: str, value: Any) -> Call:
        """The same call with ``value`` as ``name``."""
        place = self._place(name)
        if isinstance(place, int):
            args = (*self.args[:place], value, *self.args[place + 1 :])
            return replace(self, args=args)
        return replace(self, kwargs={**self.kwargs, place or name: value})

    def run(self) -> Any:
        """What the function gives for the arguments."""
        return self.function(*self.args, **self.kwargs)

    def _place(self, name: str) -> int | str | None:
        """Position, or keyword, under which ``name`` was passed."""
        if name in self.names and self.names.index(name) < len(self.args):
            return self.names.index(name)
        spellings = (name, *_ALIASES.get(name, ()))
        return next((spelling for spelling in spellings if spelling in self.kwargs), None)
