"""Live: floats that are kept beside the integers only as long as a process lives."""

from __future__ import annotations

from typing import Any, Self


class LiveFloats:
    """Base of what is never changed once made: copies share it, and a pickle has None in its place."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()
