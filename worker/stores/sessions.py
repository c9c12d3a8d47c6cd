"""Sessions: what can't be made again. At most so many, for so long after they were used last; those used longest ago go.

Where there is a folder for files, a session that is idle is there alone, and so is any when memory is short. What its disk takes no
more of stays in memory until it does, unless it is to be there after a restart: then it is refused.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from protocol.vocabulary import StoreKind
from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.plugins import LimitExceededError, OutOfMemoryError, WorkerError
from worker.stores.base import SCRATCH, Cleared, Content, EntryFile, Form, Item, Options, Put, Scope, named
from worker.stores.entries import EntryKind
from worker.stores.entry import ALONE, Entry, end_of, row_of
from worker.stores.kept import StayingKind, StayingStore

HISTORY_BYTES = 256 * 1024
"""Of JSON, in each session's ``history``: what is older is cut off."""
IDLE_NS = 60 * NS_PER_S
"""A session that was not used for so long leaves memory, where it is on disk."""


class SessionPool(StayingStore):
    """The sessions of one scope."""

    renews = True

    def __init__(self, kind: EntryKind, name: str, options: Options, file: EntryFile | None) -> None:
        super().__init__(kind, name, options, file)
        # Mutable state besides, guarded by the kind's lock: the keys of sessions that were used since that was told
        # to the file. A use writes nothing by itself.
        self._renewed: set[str] = set()

    def put(self, item: Item) -> Put:
        """Store a session; of its history the oldest is cut off where it is too long.

        LimitExceededError where the newest message alone is longer than a history may be.
        """
        return super().put(replace(item, content=trimmed(item.content, HISTORY_BYTES)))

    def tend(self) -> None:
        """Have what is idle leave memory, besides."""
        super().tend()
        if self._file is None:
            return
        with self._kind.lock:
            before = self._kind.now_ns() - IDLE_NS
            for entry in list(self._table):
                if entry.is_warm and entry.used_ns <= before:
                    self._cool(entry)
            self._memory.tidy()
        with self._changing:
            self._tell_uses()
            self._write_again()

    def close(self) -> Cleared:
        """Give the memory back, once the file knows of the last uses, where it takes that."""
        with self._changing, suppress(WorkerError):
            self._tell_uses()
        return super().close()

    def _write_again(self) -> None:
        """Have on disk what it took no more of when that was put, one by one while it takes them. While changing."""
        with self._kind.lock:
            alone = [each for each in self._table if each.state == ALONE]
        with suppress(OutOfMemoryError):
            for each in alone:
                self._write_once_more(each)

    def _write_once_more(self, entry: Entry) -> None:
        with self._kind.lock:
            there, behind = self._table.same(entry), self._kind.behind_ns()  # wherever it lies by now
            data = b"" if there is None else self._memory.content(there)
        if there is None or self._closed or self._file is None:
            return
        self._file.change([row_of(there, data, None, behind)])
        with self._kind.lock:
            there = self._table.same(entry)
            if there is not None:
                self._table.rewrite(there, data, self._band(there))

    def _tell_uses(self) -> None:
        """Tell the file which sessions were used, so that a restart ends none before its time. While changing."""
        if self._closed or not self.lasting or not self._renewed or self._file is None:
            return
        with self._kind.lock:
            used, self._renewed = self._renewed, set()
            behind, entries = self._kind.behind_ns(), [self._table.get(key) for key in used]
            there = {e.key: (e.used_ns + behind) // NS_PER_MS for e in entries if e is not None}
        try:
            self._file.note_uses(there)
        except BaseException:
            with self._kind.lock:
                self._renewed |= used
            raise

    def _use(self, entry: Entry, now_ns: int) -> None:
        entry.expires_ns = end_of(now_ns, entry.ttl_ns)
        super()._use(entry, now_ns)
        if self.lasting:
            self._renewed.add(entry.key)

    def _cheapest(self, _need_bytes: int) -> Iterable[Entry]:
        return sorted(self._table, key=_last_used)

    def _loaded(self, entry: Entry) -> None:
        entry.expires_ns = end_of(
            entry.used_ns, entry.ttl_ns
        )  # a use renews, also one before the worker began


class SessionPools(StayingKind):
    """All scopes' session pools of one name."""

    word = StoreKind.SESSIONS
    default_entries = 500
    default_ttl_ms = 1_800_000
    stores = SessionPool

    def scratch(self, name: str, scope: Scope, file: Path | None) -> EntryFile | None:
        """Return a file that is gone after a restart."""
        if file is None:
            return None
        from worker.stores.files import ScratchFile, about  # noqa: PLC0415 - only where there is a folder

        return ScratchFile(named(file, SCRATCH), about(scope, (self.word, name)))

    def refusal(self, size: int) -> str | None:
        """Refuse none for want of memory that is not given up: a session is all there is of it."""
        return super().refusal(size) if self.on_disk else None


def _last_used(entry: Entry) -> int:
    return entry.used_ns


def trimmed(content: Content, most_bytes: int) -> Content:
    """Return a session with the newest of its ``history`` that has at most so many bytes of JSON; others as they are.

    LimitExceededError where that would be none of it.
    """
    if content.form is not Form.JSON or len(content.data) <= most_bytes:
        return content
    value: Any = orjson.loads(content.data)
    if not isinstance(value, dict) or not isinstance(value.get("history"), list):
        return content
    kept, left = [], most_bytes - len(b"[]")
    for each in reversed(value["history"]):
        left -= len(orjson.dumps(each)) + 1
        if left < 0:
            break
        kept.append(each)
    if value["history"] and not kept:
        size = len(orjson.dumps(value["history"][-1]))
        message = f"the newest message of its history takes {size} bytes of JSON, and a history may have {most_bytes}"
        message += ": store what is long elsewhere, and its key here; the session is as it was"
        raise LimitExceededError(message, entry_bytes=size, limit_bytes=most_bytes)
    value["history"] = kept[::-1]
    return Content(orjson.dumps(value))
