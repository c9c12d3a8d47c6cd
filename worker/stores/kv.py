"""What models made of the beginnings of prompts (keys and values of attention), found by the longest one a prompt begins with.

An entry is of a model and a number of tokens from the beginning of a prompt on. Where it is lies in its key: the model, how
many tokens, and a hash over all of them, so that one pass over a prompt finds all entries that it begins with. An entry has
what was made of all of those tokens, or of the last of them alone, and goes on from the entry before it. Of such a chain the
end goes first: without its beginning the rest is of no use.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

from protocol.vocabulary import StoreKind
from worker.core.tensor_file import unpacked
from worker.plugins import InvalidRequestError, UnsupportedError
from worker.stores.base import Content, EntryFile, Form, Hit, Item, Options, Put, Question
from worker.stores.entries import EntryKind
from worker.stores.entry import Entry
from worker.stores.giving import EntryLot, Lot
from worker.stores.index import EntryStore
from worker.stores.segment import Band
from worker.stores.segments import OWN_ORDER

_LENGTH_DIGITS, _DIGEST = 10, 32
_WHOLE, _GOES_ON = "-", "+"
"""Before the hash: whether an entry has all, or goes on from another."""
_PLACE = len("//") + _LENGTH_DIGITS + len(_WHOLE) + _DIGEST
"""What an entry's key has after its model, in characters."""
KEY_MAX = 1024 - _PLACE
"""Of a model, in characters."""


class KvStore(EntryStore):
    """The beginnings of one scope."""

    plain = False

    def __init__(self, kind: EntryKind, name: str, options: Options, file: EntryFile | None) -> None:
        super().__init__(kind, name, options, file)
        # All mutable state, guarded by the kind's lock: how many entries of each model have so many tokens, and which
        # goes on from which, as far as that was seen.
        self._lengths: dict[str, dict[int, int]] = {}
        self._before: dict[str, str] = {}
        self._after: dict[str, dict[str, None]] = {}
        self._needed: list[list[str]] = []
        """What those go on from that are being put: none of it makes room for them."""

    def put(self, item: Item) -> Put:
        """Store tensors of the beginning of a prompt. InvalidRequestError for what is none."""
        if item.tokens is None:
            message = (
                "a store of kind kv keeps what was made of tokens: say which, from the prompt's beginning on"
            )
            raise InvalidRequestError.at("data.tokens", message)
        if len(item.key) > KEY_MAX:
            message = (
                f"a model's key has at most {KEY_MAX} characters here: the place of its tokens is added to it"
            )
            raise InvalidRequestError.at("data.key", message)
        _check(item.content)
        ((_, whole, going_on),) = _places(item.key, item.tokens, (len(item.tokens),))
        key, before = whole, list[str]()
        if item.goes_on:
            key = going_on
            before = [each for _, each in self.chain(item.key, item.tokens) if each != key]
        with self._kind.lock:
            self._needed.append(before)
        try:
            put = super().put(replace(item, key=key, tokens=None, goes_on=False))
        finally:
            with self._kind.lock:
                self._needed.remove(before)
        if put.reason is None and item.goes_on:
            self.chain(item.key, item.tokens)  # which notes what it goes on from
        return put

    def wholes(self, model: str, tokens: Sequence[int]) -> list[tuple[int, str]]:
        """Return of how many tokens the entries are that have all of what a prompt begins with, and their keys; the shortest first."""
        return [(length, whole) for length, whole, _ in self._beginnings(model, tokens) if whole]

    def chain(self, model: str, tokens: Sequence[int]) -> list[tuple[int, str]]:
        """Return those that go on from each other."""
        found = [(length, key) for length, _, key in self._beginnings(model, tokens) if key]
        with self._kind.lock:
            for (_, before), (_, after) in pairwise(found):
                if before in self._table and after in self._table:
                    self._link(before, after)
        return found

    def _beginnings(self, model: str, tokens: Sequence[int]) -> list[tuple[int, str, str]]:
        """Return how many tokens there is an entry of, and the key of either form; empty where it is not there."""
        with self._kind.lock:
            lengths = sorted(each for each in self._lengths.get(model, ()) if each <= len(tokens))
        places = _places(model, tokens, lengths)
        with self._kind.lock:
            now = self._kind.now_ns()
            return [(n, self._there(whole, now), self._there(on, now)) for n, whole, on in places]

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the entries that a prompt begins with, those of the most tokens first: ``score`` is how many."""
        if question.tokens is None or question.model is None:
            message = "a store of kind kv is searched by tokens; others are by a vector or a text"
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        both = (self.wholes(question.model, question.tokens), self.chain(question.model, question.tokens))
        found = sorted((*both[0], *both[1]), reverse=True)
        if question.tags:
            with self._kind.lock:
                having = {each.key for each in self._having(question.tags)}
            found = [each for each in found if each[1] in having]
        if not found:
            self.missed()
        return tuple(Hit(key, float(length), _NOT_SHOWN) for length, key in found[: question.limit])

    def missed(self) -> None:
        """Note that nothing was found."""
        with self._kind.lock:
            self._misses += 1

    def lots(self, need_bytes: int) -> Iterator[Lot]:
        """Offer what no other goes on from in place of what it goes on from; on disk all stays, and any may go."""
        if self._file is not None:
            return
        cheapest = self.victims_of(need_bytes + self._needed_bytes())
        last = self._last_first(self._memory.entry(place).key for _, place in cheapest)
        for (price, _), entry in zip(cheapest, last, strict=False):
            size = entry.given_bytes
            yield Lot(price, size, price * size, EntryLot(self, entry.hash, entry.serial))

    # ---- inside, with the kind's lock ----

    def _refusal(self, size: int, replaced: Entry | None) -> str | None:
        limits = (self.limit_bytes, None if self._file is not None else self._kind.limit())
        limit, needed = min(each for each in limits if each is not None), self._needed_bytes()
        if needed and needed + size > limit:
            return f"with the {needed} bytes that it goes on from it takes more than there may be, {limit}"
        return super()._refusal(size, replaced)

    def _needed_bytes(self) -> int:
        needed = (self._table.get(key) for each in self._needed for key in each)
        return sum(each.entry_bytes for each in needed if each is not None)

    def _band(self, entry: Entry) -> Band:
        return OWN_ORDER if self._file is None else super()._band(entry)

    def _cheapest(self, need_bytes: int) -> Iterable[Entry]:
        return self._last_first(each.key for each in super()._cheapest(need_bytes + self._needed_bytes()))

    def _last_first(self, keys: Iterable[str]) -> Iterator[Entry]:
        """Return as many entries, each the last that goes on from one of these, or where that is gone, the one before it."""
        needed = {key for each in self._needed for key in each}
        going: set[str] = set()
        for each in keys:
            key: str | None = each
            while key in going or key in needed:
                key = self._before.get(key)
            if key is None:
                continue
            while (after := next((k for k in self._after.get(key, ()) if k not in going), None)) is not None:
                key = after
            going.add(key)
            if (entry := self._table.get(key)) is not None:
                yield entry

    def _there(self, key: str, now_ns: int) -> str:
        entry = self._table.get(key)
        return "" if entry is None or entry.ended(now_ns) else key

    def _link(self, before: str, after: str) -> None:
        self._unlink(after)
        self._before[after] = before
        self._after.setdefault(before, {})[after] = None

    def _unlink(self, key: str) -> None:
        """Have an entry go on from none."""
        before = self._before.pop(key, None)
        if before is not None:
            siblings = self._after[before]
            del siblings[key]
            if not siblings:
                del self._after[before]

    def _add(self, entry: Entry) -> None:
        super()._add(entry)
        model, length = _place_of(entry.key)
        lengths = self._lengths.setdefault(model, {})
        lengths[length] = lengths.get(length, 0) + 1

    def _drop(self, entry: Entry) -> None:
        super()._drop(entry)
        self._unlink(entry.key)
        for each in self._after.pop(entry.key, {}):
            del self._before[each]
        model, length = _place_of(entry.key)
        lengths = self._lengths[model]
        lengths[length] -= 1
        if not lengths[length]:
            del lengths[length]
        if not lengths:
            del self._lengths[model]


class KvStores(EntryKind):
    """All scopes' stores of one name."""

    word = StoreKind.KV
    stores = KvStore


_NOT_SHOWN = Content(b"", Form.BYTES)


def _places(model: str, tokens: Sequence[int], lengths: Iterable[int]) -> list[tuple[int, str, str]]:
    """Return both keys of a prompt's beginnings of these lengths, which rise: each hash goes on from the one before."""
    content = memoryview(array("q", tokens)).cast("B")
    hashed, at, found = sha256(), 0, []
    for length in lengths:
        hashed.update(content[at * 8 : length * 8])
        at = length
        place, digest = f"{model}//{length:0{_LENGTH_DIGITS}}", hashed.hexdigest()[:_DIGEST]
        found.append((length, f"{place}{_WHOLE}{digest}", f"{place}{_GOES_ON}{digest}"))
    return found


def _place_of(key: str) -> tuple[str, int]:
    """Return an entry's model, and of how many tokens it is."""
    model, place = key[:-_PLACE], key[-_PLACE:]
    return model, int(place[2 : 2 + _LENGTH_DIGITS])


def _check(content: Content) -> None:
    """InvalidRequestError for what is no file of tensors."""
    try:
        if content.form is not Form.BYTES:
            raise ValueError("it is JSON")  # noqa: TRY301 - told with what to send instead, as what is no file of tensors
        unpacked(content.data)
    except ValueError as error:
        message = f"a store of kind kv keeps tensors, as an allocation with the bytes of a safetensors file: {error}"
        raise InvalidRequestError.at("data.allocation_id", message) from error
