"""Documents: texts of a project in pieces, found by their words, by vectors, or by both.

The words' index is in memory and made of the texts when it is first needed, so that it can go when memory is short.
"""

import time
from collections.abc import Iterable, Sequence, Sized

import orjson

from protocol.vocabulary import StoreKind
from worker.core.cancellation import CancelToken
from worker.plugins import InvalidRequestError, UnsupportedError
from worker.stores.base import Content, Embed, Form, Hit, Item, Put, Question, Tools, Vector
from worker.stores.index import EntryStore
from worker.stores.kept import KeptStore
from worker.stores.key_index import hash_of
from worker.stores.text_index import TextIndex
from worker.stores.vectors import Vectors, VectorStore

_WORDS = "words"
"""Their index, as what can leave memory."""
_DEPTH = 4
"""Of each ranking so many times what is asked for is merged."""
_RANK = 60
"""Reciprocal rank fusion: a place counts 1 / (60 + place), as Cormack, Clarke and Büttcher have it (SIGIR 2009)."""


class DocumentStore(VectorStore):
    """The documents of one scope."""

    # Mutable state besides, guarded by the kind's lock: the words, None where they are not indexed, and what that took.
    _words: TextIndex | None = None
    _index_ms = 0.0

    @property
    def quick(self) -> bool:
        """It is not: a text's words are indexed."""
        return False

    def put(self, item: Item) -> Put:
        """Store a text: a string, or an object with ``text``. InvalidRequestError for what is neither."""
        text = text_of(item.content)
        put = KeptStore.put(self, item)
        if put.reason is None:
            with self._kind.lock:
                if self._words is not None and item.key in self._table:
                    self._words.put(item.key, text)
                    self._keep_words(self._words)
        return put

    def put_all(self, items: Sequence[Item], embed: Embed | None, token: CancelToken) -> str | None:
        """Store texts, with vectors of them where there is something that makes some. Returns why one was not stored."""
        texts = [text_of(each.content) for each in items]
        vectors = [None] * len(items) if embed is None else self._embedded(embed, texts, token)
        for item, vector in zip(items, vectors, strict=True):
            put = self.put(Item(item.key, item.content, vector=vector, tags=item.tags))
            if put.reason is not None:
                return put.reason
        return None

    def ending(self, suffix: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the keys that end so, and their tags."""
        with self._kind.lock:
            return [(each.key, each.tags) for each in self._table if each.key.endswith(suffix)]

    def orphans(self, separator: str) -> list[str]:
        """Return the keys of pieces of files whose first piece is not there; keys of the caller's own are none."""
        with self._kind.lock:
            found = []
            for entry in self._table:
                name, _, number = entry.key.rpartition(separator)
                if number.isdecimal() and number != "0" and f"{name}{separator}0" not in self._table:
                    found.append(entry)
        contents = zip(found, self._contents(found), strict=True)
        return [each.key for each, content in contents if content and _piece(each.key, separator, content)]

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the texts that have words of the text, or are near to the vector; where both are known, by both."""
        if question.text is None and question.vector is None:
            message = (
                "a store of kind documents is searched by a text or a vector; those of kind kv are by tokens"
            )
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        with self._kind.lock:
            among = None
            if question.tags or self._table.any_ended(self._kind.now_ns()):
                among = {each.key: None for each in self._having(question.tags)}
            empty = not self._table if among is None else not among
        if empty:
            return self._hits_of(())
        depth, vector, rankings = _DEPTH * question.limit, question.vector, list[list[tuple[str, float]]]()
        if question.text is not None:
            rankings.append(self._indexed().search(question.text, depth, among))
            embed = self._embed
            if embed is not None and self._dimensions is not None:
                (vector,) = self._embedded(embed, [question.text], CancelToken(self._kind.now_ns))
        if vector is not None:
            rankings.append(self._nearest(vector, depth, None if among is None else list(among)))
        return self._hits_of(merged(rankings)[: question.limit])

    def give_up_part(self, name: str) -> bool:
        """Have the words leave memory, which are made of the texts again."""
        if name != _WORDS:
            return super().give_up_part(name)
        if self._words is None:
            return False
        self._evictions += 1
        self._keep_words(None)
        return True

    # ---- inside ----

    @property
    def _embed(self) -> Embed | None:
        kind = self._kind
        return kind.embed if isinstance(kind, Documents) else None

    def _embedded(self, embed: Embed, texts: Sequence[str], token: CancelToken) -> Sequence[Vector]:
        """Return vectors of texts. UnsupportedError where they can't be compared with those of the store."""
        vectors, has = embed(texts, token), self._dimensions
        for made in (len(each) for each in vectors if isinstance(each, Sized)):
            if has not in {None, made}:
                message = (
                    f"--documents-embedder makes vectors of {made} dimensions, and {self._name!r} has such of {has}, of"
                    " another embedder: clear it by store.clear, and load it again"
                )
                raise UnsupportedError(message, store=self._name, dimensions=has, embedder_dimensions=made)
        return vectors

    def _indexed(self) -> TextIndex:
        """Return the words, indexed now where they were not. They stay where there is room for them."""
        with self._changing:
            with self._kind.lock:
                words, entries = self._words, list(self._table)
                self.prices.used(hash_of(_WORDS), self._kind.now_ns())
            if words is not None and not words.is_stale:
                return words
            begun, made = time.perf_counter(), TextIndex()
            for entry in entries:
                (content,) = self._contents([entry])
                if content is not None:
                    made.put(entry.key, text_of(content))
            with self._kind.lock:
                self._keep_words(None)
                self._index_ms = (time.perf_counter() - begun) * 1000
                if self._kind.refusal(made.held_bytes) is None:
                    self._kind.make_room(made.held_bytes, None)
                    self._keep_words(made)
            return made

    # ---- inside, with the kind's lock ----

    def _lose_vector(self, key: str) -> None:
        super()._lose_vector(key)
        if self._words is not None:
            self._words.remove(key)
        if len(self._table) == 1:  # it is the last one
            self._keep_words(None)

    def _keep_words(self, words: TextIndex | None) -> None:
        """Have these words in memory, as they are now, and count them; None for none. Whoever searches others has them until then."""
        self._words = words
        self._keep_part(_WORDS, 0 if words is None else words.held_bytes, self._index_ms)

    @property
    def _mapped_bytes(self) -> int:
        return super()._mapped_bytes + self._parts.get(_WORDS, (0, None))[0]


def text_of(content: Content) -> str:
    """Return the text of what is to be stored. InvalidRequestError for what has none."""
    said = orjson.loads(content.data) if content.form is Form.JSON else None
    text = said.get("text") if isinstance(said, dict) else said
    if not isinstance(text, str):
        message = 'a document is a text, or an object with one: {"text": ...}'
        raise InvalidRequestError.at("data.value", message)
    return text


def _piece(key: str, separator: str, content: Content) -> bool:
    """Tell whether an entry is as a loaded folder's piece of that key is."""
    said = orjson.loads(content.data) if content.form is Form.JSON else None
    return isinstance(said, dict) and key == f"{said.get('path')}{separator}{said.get('chunk')}"


def merged(rankings: Iterable[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return one ranking of several: of one, itself; of more, by reciprocal ranks."""
    several = list(rankings)
    if len(several) == 1:
        return list(several[0])
    scores: dict[str, float] = {}
    for ranking in several:
        for place, (key, _) in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (_RANK + place)
    return sorted(scores.items(), key=lambda found: (-found[1], found[0]))


class Documents(Vectors):
    """All scopes' documents of one name."""

    word = StoreKind.DOCUMENTS
    stores: type[EntryStore] = DocumentStore
    default_entries = None

    def __init__(self, consumer_id: str, tools: Tools) -> None:
        super().__init__(consumer_id, tools)
        self.embed = tools.embed
