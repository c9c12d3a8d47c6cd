"""Vectors: each entry has one, and is found by what it is near to. In float16, and exact."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.vocabulary import StoreKind, VectorMetric
from worker.plugins import InvalidRequestError, UnsupportedError
from worker.stores.base import Hit, Item, Options, Put, Question
from worker.stores.index import EntryStore
from worker.stores.kept import KeptKind, KeptStore
from worker.stores.vector_index import VectorError, VectorIndex
from worker.stores.vector_rows import Array

_PLACE_BYTES = 192
"""What finding a vector by its key takes beside its row: measured on CPython 3.11."""


class VectorStore(KeptStore):
    """The vectors of one scope. Their dimensions are an option's, or the first one's."""

    _vectors: VectorIndex | None = None

    def configure(self, options: Options) -> None:
        """Take over options. InvalidRequestError for those that hold for every vector that is there."""
        for name, said in (("dimensions", options.dimensions), ("metric", options.metric)):
            has = getattr(self._vectors, name, None)
            if has is not None and said not in {None, has}:
                message = f"{self._name!r} has vectors of {name} {has}: clear it first"
                raise InvalidRequestError.at(f"data.options.{name}", message)
        super().configure(options)

    def put(self, item: Item) -> Put:
        """Store an entry with its vector. InvalidRequestError for a vector that can't be."""
        if item.vector is None:
            raise InvalidRequestError.at("data.vector", "a store of kind vectors keeps one with each entry")
        vectors = self._vectors or self._made(len(item.vector))
        return super().put(replace(item, vector=_checked(vectors, item.vector)))

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the entries with the nearest vectors that have all of the tags."""
        if question.vector is None:
            message = (
                "a store of kind vectors is searched by a vector: a model makes it of the text;"
                " those of kind preferences are searched by a text"
            )
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        with self._kind.lock:
            self.expire(self._kind.now_ns())
            among = [each.key for each in self._having(question.tags)] if question.tags else None
        vectors = self._vectors
        if vectors is None:
            return ()
        nearest = vectors.search(_checked(vectors, question.vector), question.limit, among)
        with self._kind.lock:
            there = [
                (score, self._entries[key]) for key, score in nearest if key in self._entries
            ]  # else it went meanwhile
            self._hits, self._misses = self._hits + bool(there), self._misses + (not there)
            return tuple(Hit(entry.key, score, self._content(entry)) for score, entry in there)

    # ---- inside ----

    def _size_of(self, item: Item) -> int:
        vectors = self._vectors or self._made(0 if item.vector is None else len(item.vector))
        return super()._size_of(item) + vectors.row_bytes + _PLACE_BYTES

    def _index(self, item: Item) -> None:
        if item.vector is None:
            raise TypeError(item)
        vectors = self._vectors or self._made(len(item.vector))
        vectors.put(item.key, _checked(vectors, item.vector))
        self._vectors = vectors

    def _unindex(self, key: str) -> None:
        if self._vectors is None:
            return
        self._vectors.remove(key)
        if not self._vectors.count:
            self._vectors = None

    @property
    def _mapped_bytes(self) -> int:
        return self._memory.held_bytes + (0 if self._vectors is None else self._vectors.held_bytes)

    def _made(self, dimensions: int) -> VectorIndex:
        return VectorIndex(
            self._options.dimensions or dimensions, self._options.metric or VectorMetric.COSINE
        )


def _checked(vectors: VectorIndex, vector: Sequence[float]) -> Array:
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
    default_entries = 5_000

    def resolved(self, options: Options) -> Options:
        """Return options as they hold."""
        if options.preset is not None:
            raise InvalidRequestError.at("data.options.preset", "a store of kind vectors has none")
        return options
