"""Vectors: each entry has one, and is found by what it is near to. Two bytes a component, and exact.

Those of a store with a file leave memory all at once, when it is short, and are read back when they are searched: the
store is *cold* meanwhile. What is put or deleted then is so in the file alone.
"""

import time
from collections.abc import Callable

from protocol.vocabulary import StoreKind, VectorMetric
from worker.plugins import InvalidRequestError, UnsupportedError
from worker.stores.base import Hit, Item, Options, Put, Question, Vector
from worker.stores.entry import Entry
from worker.stores.index import EntryStore
from worker.stores.kept import KeptKind, KeptStore
from worker.stores.key_index import hash_of
from worker.stores.vector_index import VectorError, VectorIndex
from worker.stores.vector_rows import Array, dimensions_of

_PLACE_BYTES = 192
"""What finding a vector by its key takes beside its row: measured on CPython 3.11."""
_ALL = "vectors"
"""All of them together, as what can leave memory."""
_BYTES_PER_MS = 50_000
"""Of reading vectors back, until it was measured: 5,000 of 384 dimensions took 40 to 80 ms on a busy core."""


class VectorStore(KeptStore):
    """The vectors of one scope. Their dimensions are an option's, or the first one's."""

    plain = False
    # Mutable state besides, guarded by the kind's lock: the vectors in memory, None where there are none or the store
    # is cold; how many dimensions those of all entries have; and what reading them back took.
    _vectors: VectorIndex | None = None
    _dimensions: int | None = None
    _read_ms: float | None = None

    def configure(self, options: Options) -> None:
        """Take over options. InvalidRequestError for those that hold for every vector that is there."""
        has = {"dimensions": self._dimensions, "metric": self._metric} if self._dimensions else {}
        for name, value in has.items():
            if getattr(options, name) not in {None, value}:
                message = f"{self._name!r} has vectors of {name} {value}: clear it first"
                raise InvalidRequestError.at(f"data.options.{name}", message)
        super().configure(options)

    def put(self, item: Item) -> Put:
        """Store an entry with its vector. InvalidRequestError for a vector that can't be."""
        if item.vector is None:
            raise InvalidRequestError.at("data.vector", "a store of kind vectors keeps one with each entry")
        return super().put(item)

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the entries with the nearest vectors that have all of the tags."""
        if question.vector is None:
            message = (
                "a store of kind vectors is searched by a vector: a model makes it of the text;"
                " those of kinds preferences and documents are searched by a text"
            )
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        with self._kind.lock:
            among = None
            if question.tags or self._table.any_ended(self._kind.now_ns()):
                among = [each.key for each in self._having(question.tags)]
        nearest = self._nearest(question.vector, question.limit, among)
        return self._hits_of(nearest)

    def give_up_part(self, name: str) -> bool:
        """Have all vectors leave memory, which are on disk."""
        if name != _ALL:
            return super().give_up_part(name)
        if self._vectors is None or self._file is None:
            return False
        self._evictions += 1
        self._keep(None)
        return True

    # ---- inside ----

    @property
    def _metric(self) -> VectorMetric:
        return self._options.metric or VectorMetric.COSINE

    def _nearest(self, vector: Vector, limit: int, among: list[str] | None) -> list[tuple[str, float]]:
        """Search where the vectors are, or are read back to."""
        vectors, kept = self._vectors, True
        while True:
            if vectors is None:
                vectors = self._read_back(keep=kept)
            if vectors is None:
                return []
            found = vectors.search(_checked(vectors, vector), limit, among)
            if found is not None:
                with self._kind.lock:
                    if self._file is not None:
                        self.prices.used(hash_of(_ALL), self._kind.now_ns())
                return found
            vectors, kept = None, False  # they left memory meanwhile: once more, for this search alone

    def _read_back(self, *, keep: bool) -> VectorIndex | None:
        """Return the vectors, read from the file where the store is cold; None where there are none.

        They are in memory from now on if they are to be kept, and there is room for them.
        """
        with self._changing:
            with self._kind.lock:
                vectors, dimensions = self._vectors, self._dimensions
            if vectors is not None or dimensions is None or self._file is None:
                return vectors
            begun = time.perf_counter()
            vectors = VectorIndex(dimensions, self._metric)
            for key, row in self._file.vectors():
                vectors.put(key, row)
            with self._kind.lock:
                self._read_ms = (time.perf_counter() - begun) * 1000
                if keep and self._kind.refusal(vectors.held_bytes) is None:
                    self._kind.make_room(vectors.held_bytes, None)
                    self._keep(vectors)
        return vectors

    def _vector_bytes(self, item: Item) -> bytes | None:
        if item.vector is None:
            return None
        vectors = self._vectors or self._made(self._dimensions or _length(item.vector))
        return vectors.pack(_checked(vectors, item.vector))

    def _beside_bytes(self, vector_bytes: int) -> int:
        return vector_bytes + _PLACE_BYTES if vector_bytes else 0

    # ---- inside, with the kind's lock ----

    def _take_vector(self, key: str, vector: bytes | None) -> Callable[[], None]:
        if vector is None:
            return self._without_vector(key)
        row, vectors, before = vector, self._vectors, self._dimensions
        dimensions = dimensions_of(len(row))
        if before not in {None, dimensions}:  # another one came first meanwhile
            message = f"it has {dimensions} dimensions, and the store's vectors have {before}"
            raise InvalidRequestError.at("data.vector", message)
        if vectors is None and before is not None and self._file is not None:  # cold
            return lambda: None
        vectors = vectors or self._made(dimensions)
        replaced = vectors.row(key)
        vectors.put(key, row)
        self._dimensions = dimensions
        self._keep(vectors)

        def undo() -> None:
            if self._vectors is vectors:
                if replaced is not None:
                    vectors.put(key, replaced)
                else:
                    vectors.remove(key)
                self._keep(vectors if vectors.count else None)
            self._dimensions = before

        return undo

    def _without_vector(self, key: str) -> Callable[[], None]:
        """Have an entry have none from now on. Returns what undoes that."""
        vectors = self._vectors
        replaced = None if vectors is None else vectors.row(key)
        if vectors is None or replaced is None:
            return lambda: None
        row, before = replaced, self._dimensions
        vectors.remove(key)
        self._keep_rest(vectors)

        def undo() -> None:
            if self._vectors is None and not vectors.count:
                self._take_vector(key, row)
            elif self._vectors is vectors:
                vectors.put(key, row)
                self._keep(vectors)
            self._dimensions = before

        return undo

    def _lose_vector(self, key: str) -> None:
        if self._vectors is not None:
            self._vectors.remove(key)
            self._keep_rest(self._vectors)
        if len(self._table) == 1:  # it is the last one
            self._dimensions = None

    def _loaded(self, entry: Entry) -> None:
        if entry.beside_bytes:
            self._dimensions = dimensions_of(entry.beside_bytes - _PLACE_BYTES)

    def _keep_rest(self, vectors: VectorIndex) -> None:
        """Have what is left of them in memory; without the last one the next may have any dimensions."""
        if not vectors.count:
            self._dimensions = None
        self._keep(vectors if vectors.count else None)

    def _keep(self, vectors: VectorIndex | None) -> None:
        """Have these vectors in memory, as they are now, and count them; None for none."""
        if self._vectors is not None and self._vectors is not vectors:
            self._kind.lock.close_after(self._vectors)
        self._vectors = vectors
        size = 0 if vectors is None else vectors.held_bytes + vectors.count * _PLACE_BYTES
        cost_ms = None if self._file is None else self._read_ms or size / _BYTES_PER_MS
        self._keep_part(_ALL, size, cost_ms)

    @property
    def _mapped_bytes(self) -> int:
        return self._memory.held_bytes + (0 if self._vectors is None else self._vectors.held_bytes)

    def _made(self, dimensions: int) -> VectorIndex:
        return VectorIndex(self._options.dimensions or dimensions, self._metric)


def _length(vector: Vector) -> int:
    """Return how many components a vector has. InvalidRequestError for what has none."""
    try:
        if found := len(vector):
            return found
    except TypeError:
        pass
    raise InvalidRequestError.at("data.vector", "a vector is a list, or an array, of one number or more")


def _checked(vectors: VectorIndex, vector: Vector) -> Array:
    """Return a vector as it is stored. InvalidRequestError."""
    try:
        return vectors.checked(vector)
    except VectorError as error:
        raise InvalidRequestError.at("data.vector", str(error)) from error


class Vectors(KeptKind):
    """All scopes' stores of vectors of one name."""

    word = StoreKind.VECTORS
    stores: type[EntryStore] = VectorStore
    has_vectors = True
    default_entries: int | None = 5_000

    options = ("dimensions", "metric")
