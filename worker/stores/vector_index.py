"""Vectors by key, and the nearest of them: exact, in two steps, with a float32 copy of no more than a few rows at a time.

1. Every row's score in float32, by blocks, with a bound of its error.
2. Those that by these bounds may be among the nearest are scored again in float64, each by itself: so the answer is that of
   the stored vectors, whatever else is there and wherever it lies. Equal scores are ordered by their keys.
"""

from collections.abc import Collection, Sequence

import numpy as np

from protocol.vocabulary import VectorMetric
from worker.core.sure_lock import SureLock
from worker.stores.vector_rows import LARGEST, SMALLEST, STEPS, Array, Rows

_STEP_BYTES = 2**18
"""Of the rows that are scored at a time, in float32: a core's cache holds them."""
_UNIT = 2.0**-23
"""Twice a float32's rounding error."""


class VectorError(ValueError):
    """A vector that can't be stored or searched for; the message says why."""


class VectorIndex:
    """The vectors of one store. Thread-safe."""

    def __init__(self, dimensions: int, metric: VectorMetric) -> None:
        self.dimensions = dimensions
        self.metric = metric
        self._step_rows = max(8, _STEP_BYTES // (4 * dimensions))
        self._lock = SureLock()
        # All mutable state: the rows, each one's key, each key's row, and whether they were given back.
        self._rows = Rows(dimensions)
        self._keys: list[str] = []
        self._places: dict[str, int] = {}
        self._closed = False

    @property
    def held_bytes(self) -> int:
        """What all of them take."""
        return self._rows.held_bytes

    @property
    def count(self) -> int:
        """How many there are."""
        return self._rows.count

    def checked(self, vector: Sequence[float] | Array) -> Array:
        """Return a vector as it is stored and searched for, in float64. VectorError for one that can't be."""
        try:
            found = np.asarray(vector, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise VectorError(f"it is no list of numbers: {error}") from error
        if found.shape != (self.dimensions,):
            has = " x ".join(map(str, found.shape))
            raise VectorError(f"it has {has} dimensions, and the store's vectors have {self.dimensions}")
        top = np.abs(found).max()
        if not top <= LARGEST:
            raise VectorError(f"it has a component that is no number, infinite, or beyond {LARGEST:g}")
        if self.metric is VectorMetric.COSINE and top <= SMALLEST:
            raise VectorError("all of its components are zero, so it has no direction, which cosine compares")
        return found

    def pack(self, vector: Array) -> bytes:
        """Return a checked vector as it is kept, in memory and on disk."""
        return self._rows.pack(vector)

    def put(self, key: str, row: bytes) -> None:
        """Keep a vector that was packed, in place of that key's. OutOfMemoryError, and all is as before."""
        with self._lock:
            place = self._places.get(key)
            if place is not None:
                self._rows.replace(place, row)
                return
            self._places[key] = self._rows.add(row)
            self._keys.append(key)

    def row(self, key: str) -> bytes | None:
        """Return a key's vector as it was packed."""
        with self._lock:
            place = self._places.get(key)
            return None if place is None else self._rows.row(place)

    def remove(self, key: str) -> bool:
        """Remove a key's vector. Returns whether there was one."""
        with self._lock:
            place = self._places.pop(key, None)
            if place is None:
                return False
            last = self._keys.pop()
            if self._rows.remove(place) != place:
                self._keys[place] = last
                self._places[last] = place
            return True

    def close(self) -> None:
        """Give the memory back, once whoever searches is done. Nothing is put here afterwards."""
        with self._lock:
            self._closed = True
            self._rows.close()
            self._keys.clear()
            self._places.clear()

    def search(
        self, vector: Array, limit: int, among: Collection[str] | None = None
    ) -> list[tuple[str, float]] | None:
        """Return the keys nearest to a checked vector, nearest first, with their scores: the higher, the nearer.

        None where it was closed. Cosine's is the cosine, dot's the product, and L2's the distance below zero.
        """
        with self._lock:
            if self._closed:
                return None
            chosen = None
            if among is not None:
                places = [self._places[key] for key in among if key in self._places]
                chosen = np.array(sorted(places), np.int64)
            count = self._rows.count if chosen is None else len(chosen)
            length = float(np.sqrt(np.square(vector).sum()))
            near = self._may_be_nearest(vector, length, min(limit, count), count, chosen)
            scores = self._exact(near, vector, length)
            keys = [self._keys[place] for place in near]
        return sorted(zip(keys, scores, strict=True), key=_nearest_first)[:limit]

    # ---- inside ----

    def _may_be_nearest(
        self, vector: Array, length: float, limit: int, count: int, chosen: Array | None
    ) -> Array:
        """Return the rows that may be among the nearest, by scores in float32 and what these may be off by."""
        if limit <= 0:
            return np.empty(0, np.int64)
        along, top, norm = np.empty(count, np.float32), np.empty(count), np.empty(count)
        unit = (vector / length if length else vector).astype(np.float32)
        work = np.empty((self._step_rows, self.dimensions), np.float32)
        start = 0
        while start < count:
            rows = self._rows.some(start, min(start + self._step_rows, count), chosen)
            part = work[: len(rows)]
            part[:] = rows["values"]
            here = slice(start, start + len(rows))
            np.dot(part, unit, out=along[here])
            top[here], norm[here] = rows["top"], rows["norm"]
            start += len(rows)
        score, error = self._score(along * top * (length / STEPS), norm, length)
        threshold = np.partition(score - error, count - limit)[count - limit]
        near = np.flatnonzero(score + error >= threshold)
        return near if chosen is None else chosen[near]

    def _score(self, along: Array, norm: Array, length: float) -> tuple[Array, Array]:
        """Return scores in the metric's order from products with the vector, and by how much they may be off."""
        error = norm * length * (self.dimensions + 8) * _UNIT
        if self.metric is VectorMetric.DOT:
            return along, error
        if self.metric is VectorMetric.COSINE:
            return along / (norm * length), error / (norm * length)
        squares = norm**2 + length**2
        return 2 * along - squares, 2 * error + squares * _UNIT

    def _exact(self, places: Array, vector: Array, length: float) -> list[float]:
        """Return scores in float64, each from its own row and the vector alone."""
        scores = list[float]()
        for start in range(0, len(places), self._step_rows):
            rows = self._rows.at(places[start : start + self._step_rows])
            values = rows["values"] * (rows["top"].astype(np.float64) / STEPS)[:, None]
            if self.metric is VectorMetric.L2:
                found = -np.sqrt(np.square(values - vector).sum(axis=1))
            else:
                found = (values * vector).sum(axis=1)
                if self.metric is VectorMetric.COSINE:
                    found = found / (np.sqrt(np.square(values).sum(axis=1)) * length)
            scores += found.tolist()
        return scores


def _nearest_first(found: tuple[str, float]) -> tuple[float, str]:
    return -found[1], found[0]
