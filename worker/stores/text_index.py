"""Which texts have which words: an index in memory, by SQLite's FTS5, that ranks what it finds by BM25."""

import re
import sqlite3
import weakref
from collections.abc import Container

from worker.core.sure_lock import SureLock

_WORD = re.compile(r"\w+")
_WORDS_MAX = 64
"""Of a question: what more it has would be looked for in vain for long."""
_REBUILT_SHARE = 2
"""Once so many times as many texts were put as are there, it is built anew."""


class TextIndex:
    """Words of texts by their keys. Thread-safe. It keeps the words, not the texts."""

    def __init__(self) -> None:
        self._lock = SureLock()
        self._words = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self._words.close)  # once whoever searches is done
        self._words.execute(
            "CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2')"
        )
        # All mutable state besides: each key's row. What was removed is still indexed, and found by no key.
        self._rows: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._last = 0

    @property
    def held_bytes(self) -> int:
        """What the index takes."""
        with self._lock:
            (pages,), (size,) = (
                self._words.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
            )
            return int(pages) * int(size)

    @property
    def is_stale(self) -> bool:
        """Whether most of what is indexed was removed."""
        return self._last > _REBUILT_SHARE * (len(self._rows) + 1000)

    def put(self, key: str, text: str) -> None:
        """Index a text, in place of that key's."""
        with self._lock:
            self._words.execute("INSERT INTO texts(rowid, text) VALUES (?, ?)", (self._last + 1, text))
            self._last += 1
            self._remove(key)
            self._rows[key] = self._last
            self._keys[self._last] = key

    def remove(self, key: str) -> None:
        """Have a key be found no more."""
        with self._lock:
            self._remove(key)

    def search(self, text: str, limit: int, among: Container[str] | None = None) -> list[tuple[str, float]]:
        """Return the keys whose texts have words of a text, best first, with their scores: the higher, the better."""
        words = dict.fromkeys(_WORD.findall(text))
        asked = " OR ".join(f'"{each}"' for each in list(words)[:_WORDS_MAX])
        if not asked:
            return []
        found: list[tuple[str, float]] = []
        with self._lock:
            ranked = self._words.execute(
                "SELECT rowid, bm25(texts) FROM texts WHERE texts MATCH ? ORDER BY bm25(texts), rowid",
                (asked,),
            )
            for row, rank in ranked:
                key = self._keys.get(row)
                if key is not None and (among is None or key in among):
                    found.append((key, -rank))
                    if len(found) == limit:
                        break
            ranked.close()
        return found

    def _remove(self, key: str) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            del self._keys[row]
