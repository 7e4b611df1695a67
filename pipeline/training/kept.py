"""What was read last, kept in memory up to a limit."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)


class Weighed(Protocol):
    """Knows its memory."""

    @property
    def n_bytes(self) -> int:
        """Memory of its arrays."""


V = TypeVar("V", bound=Weighed)


class Kept(Generic[K, V]):
    """Values by key, read when they are asked for, the last used ones kept; safe to use from many threads.

    Args:
        read: Gives the value of a key.
        cache_mib: Memory for values, in MiB; a larger value is read each time.
    """

    def __init__(self, read: Callable[[K], V], *, cache_mib: int) -> None:
        self._read = read
        self._room = cache_mib * 2**20
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, key: K) -> V:
        """Give the value of a key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = self._read(key)
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._room -= value.n_bytes
            while self._room < 0:
                self._room += self._values.popitem(last=False)[1].n_bytes
        return value
