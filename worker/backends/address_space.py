"""Best fit in one range of addresses: what makes a simulated device fragment like a real one."""

from bisect import bisect_left, insort


class AddressSpace:
    """Hands out ranges of ``capacity`` bytes. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # All mutable state: the ranges in use, by address and by key.
        self._sorted: list[tuple[int, int]] = []
        self._by_key: dict[str, tuple[int, int]] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes in use."""
        return sum(size for _, size in self._sorted)

    @property
    def largest_free(self) -> int:
        """Bytes of the largest free range."""
        return max((size for _, size in self._gaps()), default=0)

    def take(self, key: str, size: int) -> bool:
        """Take the smallest free range that fits, lowest first. False if none does."""
        fitting = [(gap, start) for start, gap in self._gaps() if gap >= size]
        if not fitting:
            return False
        self._put(key, min(fitting)[1], size)
        return True

    def give_back(self, key: str) -> int:
        """Free a range, and return how long it was. KeyError if it is not in use."""
        entry = self._by_key.pop(key)
        del self._sorted[bisect_left(self._sorted, entry)]
        return entry[1]

    def size_of(self, key: str) -> int:
        """Return how long a range is; 0 for one that is not in use."""
        return self._by_key.get(key, (0, 0))[1]

    def compact(self) -> int:
        """Move all ranges to the low end. Returns how many moved."""
        moved, address = 0, 0
        for key, (start, size) in sorted(self._by_key.items(), key=lambda item: item[1]):
            if start != address:
                self.give_back(key)
                self._put(key, address, size)
                moved += 1
            address += size
        return moved

    def _put(self, key: str, start: int, size: int) -> None:
        insort(self._sorted, (start, size))
        self._by_key[key] = (start, size)

    def _gaps(self) -> list[tuple[int, int]]:
        gaps, address = [], 0
        for start, size in self._sorted:
            if start > address:
                gaps.append((address, start - address))
            address = start + size
        if address < self.capacity:
            gaps.append((address, self.capacity - address))
        return gaps
