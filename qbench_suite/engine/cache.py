"""A cache bounded in bytes: the least recently used entry goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Values by key, bounded in the bytes that ``size(value)`` says they hold.

    A value larger than the bound is kept while it is the only one: the case at hand needs it.
    """

    def __init__(self, limit_bytes: int, size: Callable[[V], int]) -> None:
        self.limit_bytes = limit_bytes
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes held now."""
        return sum(self._bytes.values())

    def get(self, key: Hashable) -> V | None:
        """The value of ``key``, now the most recently used; None where it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: V) -> V:
        """Hold ``value`` and let the least recently used go until the bound is kept."""
        self._values[key] = value
        self._values.move_to_end(key)
        self._bytes[key] = self._size(value)
        while self.used_bytes > self.limit_bytes and len(self._values) > 1:
            oldest, _ = self._values.popitem(last=False)
            del self._bytes[oldest]
        return value

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
