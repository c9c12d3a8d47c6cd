"""Vectors: each entry has one, and is found by what it is near to. In float16, and exact."""

from collections.abc import Callable, Sequence

import numpy as np

from protocol.vocabulary import StoreKind, VectorMetric
from worker.plugins import InvalidRequestError, UnsupportedError
from worker.stores.base import Hit, Item, Options, Put, Question
from worker.stores.index import EntryStore
from worker.stores.kept import KeptKind, KeptStore
from worker.stores.vector_index import VectorError, VectorIndex
from worker.stores.vector_rows import Array

_COMPONENT_BYTES = 8
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
        return super().put(item)

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the entries with the nearest vectors that have all of the tags."""
        if question.vector is None:
            message = (
                "a store of kind vectors is searched by a vector: a model makes it of the text;"
                " those of kind preferences are searched by a text"
            )
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        with self._kind.lock:
            among = {each.key: each for each in self._having(question.tags)}
        vectors = self._vectors
        if vectors is None:
            return ()
        every = len(among) == vectors.count
        nearest = vectors.search(_checked(vectors, question.vector), question.limit, None if every else among)
        found = [(key, score) for key, score in nearest if key in among]  # else it came meanwhile
        contents = self._contents([among[key] for key, _ in found])
        hits = [
            Hit(key, score, each)
            for (key, score), each in zip(found, contents, strict=True)
            if each is not None
        ]
        with self._kind.lock:
            self._hits, self._misses = self._hits + bool(hits), self._misses + (not hits)
        return tuple(hits)

    # ---- inside ----

    def _vector_bytes(self, item: Item) -> bytes:
        if item.vector is None:
            raise TypeError(item)
        vectors = self._vectors or self._made(len(item.vector))
        return bytes(_checked(vectors, item.vector).tobytes())

    def _about_bytes(self, key: str, tags: tuple[str, ...], vector: bytes | None) -> int:
        vectors = self._vectors or self._made(len(vector or b"") // _COMPONENT_BYTES)
        return super()._about_bytes(key, tags, vector) + vectors.row_bytes + _PLACE_BYTES

    def _take_vector(self, key: str, vector: bytes | None) -> Callable[[], None]:
        numbers = np.frombuffer(vector or b"", np.float64)
        vectors = self._vectors or self._made(len(numbers))
        before = vectors.packed(key) if key in self._table.entries else None
        vectors.put(key, _checked(vectors, numbers))
        self._vectors = vectors

        def undo() -> None:
            self._lose_vector(key)
            if before is not None:
                vectors.put_packed(key, before)
                self._vectors = vectors

        return undo

    def _lose_vector(self, key: str) -> None:
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


def _checked(vectors: VectorIndex, vector: Sequence[float] | Array) -> Array:
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
