"""The keys of one store in their order: made when it is first asked for, and kept up from then on, 8 bytes a key."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

_FEW = 64
_SHARE = 16
"""Made anew when so many keys have come or gone, or one part in so many of all."""


class Keys(Protocol):
    """Where keys are found by their hashes."""

    def pairs(self) -> Iterable[tuple[bytes, int]]:
        """Return all keys, with their hashes."""
        ...

    def keys_of(self, name: int) -> Sequence[bytes]:
        """Return the keys of a hash: one, but for chance; none where it is gone."""
        ...


class KeyOrder:
    """Hashes in the order of their keys. What came is put in its place, and what is gone left out, when they are next asked for.

    Its owner locks.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        # All mutable state: hashes in order; None where none was made, or two keys have one hash.
        self._names: array[int] | None = None
        self._came: list[int] = []
        self._gone = 0

    def add(self, name: int) -> None:
        """Note that a key has come."""
        if self._names is not None:
            self._came.append(name)
            self._drop_if_old()

    def remove(self, count: int = 1) -> None:
        """Note that keys are gone."""
        if self._names is not None:
            self._gone += count
            self._drop_if_old()

    def drop(self) -> None:
        """Give it back: it is made again when it is asked for."""
        self._names, self._came, self._gone = None, [], 0

    def since(self, begin: bytes) -> Iterator[bytes]:
        """Return the keys from one on, in their order. Nothing may change meanwhile."""
        if self._names is None:
            self._make()
        else:
            self._take_in()
        if self._names is None:  # some have one hash: then there are none but the keys themselves to go by
            return iter(sorted(key for key, _ in self._keys.pairs() if key >= begin))
        there = (self._keys.keys_of(self._names[at]) for at in range(self._place(begin), len(self._names)))
        return (key for keys in there for key in keys)

    # ---- inside ----

    def _make(self) -> None:
        names = array("Q", (name for _, name in sorted(self._keys.pairs())))
        self.drop()
        if len(set(names)) == len(names):
            self._names = names

    def _take_in(self) -> None:
        """Put what came in its place. A key that was there before, and came again, has its place still."""
        came, self._came = self._came, []
        for name in came:
            keys = self._keys.keys_of(name)
            if self._names is None or len(keys) > 1:
                self._make()
                return
            if keys:
                at = self._place(keys[0])
                if at < len(self._names) and self._names[at] == name:
                    self._gone -= 1
                else:
                    self._names.insert(at, name)

    def _place(self, key: bytes) -> int:
        """Return where the first key is that is not before one. What is gone is passed over."""
        assert self._names is not None  # noqa: S101 - who calls has looked
        low, high, last = 0, len(self._names), len(self._names)
        while low < high:
            middle = at = (low + high) // 2
            while at < high and not (found := self._keys.keys_of(self._names[at])):
                at += 1
            if at < high and found[0] < key:
                low = at + 1
            else:
                high, last = middle, at if at < high else last
        return last

    def _drop_if_old(self) -> None:
        names = self._names
        if names is not None and max(len(self._came), self._gone) > max(_FEW, len(names) // _SHARE):
            self.drop()
