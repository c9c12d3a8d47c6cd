"""Preferences: what is known of a user or project, small and never given up, and as a text for a model's prompt."""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from protocol.vocabulary import StoreKind
from worker.plugins import InvalidRequestError, Preference, UnsupportedError
from worker.stores.base import Content, Form, Hit, Item, Put, Question
from worker.stores.entry import Entry
from worker.stores.giving import MIB
from worker.stores.index import EntryStore
from worker.stores.kept import KeptKind, KeptStore
from worker.stores.segment import Band

_FIELDS = {"value", "description", "timestamp"}
_WORD = re.compile(r"\w+")
_PART = 0.5
"""What a word counts that is found inside another one."""


def preference(content: Content) -> Preference:
    """Read what is to be stored. InvalidRequestError for what is no preference."""
    said = orjson.loads(content.data) if content.form is Form.JSON else None
    if not isinstance(said, dict) or "value" not in said or not said.keys() <= _FIELDS:
        message = 'a preference is {"value": ..., "description": a text or null, "timestamp": a text, a number or null}'
        raise InvalidRequestError.at("data.value", message)
    found = Preference(said["value"], said.get("description"), said.get("timestamp"))
    if not isinstance(found.description, str | None):
        raise InvalidRequestError.at("data.value.description", "a text is wanted, or null")
    if isinstance(found.timestamp, bool) or not isinstance(found.timestamp, str | int | None):
        raise InvalidRequestError.at("data.value.timestamp", "a text or a whole number is wanted, or null")
    return found


class PreferenceStore(KeptStore):
    """The preferences of one scope."""

    def put(self, item: Item) -> Put:
        """Store one. InvalidRequestError for what is no preference."""
        preference(item.content)
        return super().put(item)

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return those in which words of the text occur, by the share of the words that do, and by key where it is equal."""
        if question.text is None:
            message = "a store of kind preferences is searched by a text; those of kinds vectors and documents are searched by a vector"
            raise UnsupportedError(message, store=self._name, kind=self._kind.word)
        words = _words(question.text)
        with self._kind.lock:
            entries = self._having(question.tags)
        there = self._there(entries)
        scored = [(-_score(words, _text(each.key, content)), each.key, content) for each, content in there]
        nearest = sorted(each for each in scored if each[0])[: question.limit]
        with self._kind.lock:
            self._hits, self._misses = self._hits + bool(nearest), self._misses + (not nearest)
        return tuple(Hit(key, -score, content) for score, key, content in nearest)

    def prompt(self, keys: Iterable[str]) -> str:
        """Return preferences as lines of text: key, value and description. Those that are gone are left out."""
        with self._kind.lock:
            entries = [each for each in map(self._table.get, keys) if each is not None]
        return "\n".join(_line(each.key, preference(content)) for each, content in self._there(entries))

    # ---- inside ----

    def _band(self, entry: Entry) -> Band:  # noqa: ARG002 - as its base has it
        """Offer nothing, also of what is on disk, too."""
        return None

    def _there(self, entries: list[Entry]) -> list[tuple[Entry, Content]]:
        found = zip(entries, self._contents(entries), strict=True)
        return [(entry, content) for entry, content in found if content is not None]


class Preferences(KeptKind):
    """All scopes' preferences of one name."""

    word = StoreKind.PREFERENCES
    stores: type[EntryStore] = PreferenceStore
    default_bytes = MIB
    default_entries = 1_000

    def limit_changed(self, limit_bytes: int | None, reason: str) -> None:
        """Keep all that there is, and take more: its own bounds are small."""


def _text(key: str, content: Content) -> str:
    found = preference(content)
    return f"{key} {_shown(found.value)} {found.description or ''}"


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(_WORD.findall(text.casefold())))


def _score(words: list[str], text: str) -> float:
    """Return which share of the words a text has; one that is only inside another word counts half."""
    folded = text.casefold()
    whole = set(_WORD.findall(folded))
    return sum(1.0 if each in whole else _PART * (each in folded) for each in words) / (len(words) or 1)


def _shown(value: Any) -> str:
    """Return a value on one line: a text as it is, unless it could be taken for something else."""
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "":
        return value
    return orjson.dumps(value).decode()


def _line(key: str, found: Preference) -> str:
    described = f" ({_shown(found.description)})" if found.description else ""
    return f"- {_shown(key)}: {_shown(found.value)}{described}"
