"""What a server keeps for a while: the most recently used, within a number of bytes."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Kept"]

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """Things by their names; those not asked for the longest go first. Threads may share it.

    Args:
        most_bytes: that they may take together; what alone takes more is not kept.
        most: how many.
    """

    def __init__(self, most_bytes: int, most: int = 1 << 20) -> None:
        self._most_bytes, self._most = most_bytes, most
        self._things: OrderedDict[str, tuple[_T, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> _T | None:
        """What has this name; None if it is not there, or no longer."""
        with self._lock:
            if name not in self._things:
                return None
            self._things.move_to_end(name)
            return self._things[name][0]

    def put(self, name: str, thing: _T, size: int) -> bool:
        """Keep a thing of so many bytes; gives whether it is kept."""
        with self._lock:
            self._drop(name)
            if size > self._most_bytes or self._most < 1:
                return False
            self._things[name] = thing, size
            self._bytes += size
            while self._bytes > self._most_bytes or len(self._things) > self._most:
                self._drop(next(iter(self._things)))
            return True

    def drop(self, name: str) -> bool:
        """Let a thing go; gives whether it was there."""
        with self._lock:
            return self._drop(name)

    def clear(self) -> None:
        """Let all go."""
        with self._lock:
            self._things.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._things)

    def _drop(self, name: str) -> bool:
        thing = self._things.pop(name, None)
        self._bytes -= thing[1] if thing else 0
        return thing is not None
