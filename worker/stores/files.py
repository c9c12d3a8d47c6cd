"""A store's file: SQLite (``file_format``), so that what was stored is there after any end of the process.

Each change is one transaction: it is there whole or not at all. What is in a file is said by the file itself, so that
its name need not be one that a request gave: names are digests.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from protocol.vocabulary import VectorMetric
from worker.core.log import log
from worker.core.paths import shown
from worker.core.sure_lock import SureLock
from worker.plugins import OutOfMemoryError, StoreNotFoundError
from worker.stores.base import Content, Form, Home, Options, Row, Scope
from worker.stores.disk import device_of, errors_of, gone, refusal
from worker.stores.file_format import connected, damaged, parts, said_in, set_about, unlink

_USES = "CREATE TABLE IF NOT EXISTS uses (key BLOB PRIMARY KEY, used_ms INTEGER NOT NULL) WITHOUT ROWID"
"""When entries were used last. It is made with the first use that is told; versions before it leave it alone."""
_IDLE_S = 30.0


def about(scope: Scope, home: Home) -> dict[str, str]:
    """Return what a store's file says that it is."""
    kind, name = home
    return {"user_id": scope.user_id, "project_id": scope.project_id, "kind": kind, "store": name}


class StoreFile:
    """One store's file. Thread-safe; each call is one transaction.

    OutOfMemoryError where its file system is full, fails or is gone: nothing was changed. UnsupportedError for a file that is
    no store's, another's, or of a later version.
    """

    lasting = True

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path = path
        self._about = about
        self._lock = SureLock()
        # All mutable state: the connection while it is in use, on which disk it was made, and what reading took.
        self._connection: sqlite3.Connection | None = None
        self._device: int | None = None
        self._closed = False
        """Whether its store was closed: it is not to be made anew by who is late."""
        self._used_s = 0.0
        self.read_ms = 0.2
        """What reading an entry takes, as it was of late."""
        self.problem: str | None = None
        """What its disk had against the last change; None where it took it."""

    def rows(self) -> list[Row]:
        """Return what is known about all entries."""
        with self._lock, errors_of(self.path):
            connection = self._open()
            uses = (
                "used_ms FROM entries LEFT JOIN uses USING (key)"
                if _has_uses(connection)
                else "NULL FROM entries"
            )
            query = f"SELECT key, form, put_ms, expires_ms, cost_ms, tags, length(content), length(vector), {uses}"
            return [_row(*found) for found in connection.execute(query)]

    def note_uses(self, used_ms: Mapping[str, int]) -> None:
        """Note when entries were used last, in one transaction. OutOfMemoryError where the disk takes no more."""
        with self._lock, self._transaction() as connection:
            connection.execute(_USES)
            rows = [(_blob(key), at) for key, at in used_ms.items()]
            connection.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?)", rows)

    def vectors(self) -> list[tuple[str, bytes]]:
        """Return all entries' vectors, by key."""
        with self._lock, errors_of(self.path):
            if self._closed:
                return []
            found = self._open().execute("SELECT key, vector FROM entries WHERE vector IS NOT NULL")
            return [(_text(key), vector) for key, vector in found]

    def options(self) -> Options:
        """Return the options that it was opened with last."""
        with self._lock, errors_of(self.path):
            said: dict[str, Any] = said_in(self._open(), self.path).get("options", {})
        try:
            if (metric := said.get("metric")) is not None:
                said["metric"] = VectorMetric(metric)
        except (AttributeError, ValueError) as error:
            raise damaged(self.path, error) from error
        return Options(**{name: value for name, value in said.items() if name in vars(Options())})

    def set_options(self, options: Options) -> None:
        """Keep options."""
        with self._lock, self._transaction() as connection:
            set_about(connection, "options", vars(options))

    def read(self, key: str) -> Content | None:
        """Return an entry's content; None where it is not there any more."""
        begun = time.perf_counter()
        with self._lock, errors_of(self.path):
            if self._closed:
                return None
            query = "SELECT form, content FROM entries WHERE key = ?"
            found = self._open().execute(query, (_blob(key),)).fetchone()
        took = (time.perf_counter() - begun) * 1000
        self.read_ms += (took - self.read_ms) / 8
        return None if found is None else Content(found[1], Form(found[0]))

    def change(self, writes: Iterable[Row] = (), deletes: Iterable[str] = ()) -> None:
        """Put entries, and delete others: all of it, or none."""
        gone = [(_blob(key),) for key in deletes]
        with self._lock:
            with self._transaction() as connection:
                if gone:
                    connection.executemany("DELETE FROM entries WHERE key = ?", gone)
                    if _has_uses(connection):
                        connection.executemany("DELETE FROM uses WHERE key = ?", gone)
                rows = [
                    (_blob(r.key), r.form, r.put_ms, r.expires_ms, r.cost_ms, orjson.dumps(r.tags), r.vector, r.content)
                    for r in writes
                ]  # fmt: skip
                connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            if gone:
                _shrink(connection)

    def clear(self) -> None:
        """Delete all entries. It needs no room for that: the file is made anew."""
        with self._lock, errors_of(self.path):
            told = self._open().execute("SELECT value FROM about WHERE name = 'options'").fetchone()
            self._check_there()
            self._remove()
            if told is not None:
                with self._transaction() as connection:
                    set_about(connection, "options", orjson.loads(told[0]))

    def size_bytes(self) -> int:
        """Return what it takes on disk."""
        sizes = []
        for path in parts(self.path):
            with suppress(OSError):
                sizes.append(path.stat().st_size)
        return sum(sizes)

    def rest(self) -> None:
        """Let go of it where it was not used for a while; the next use opens it again."""
        with self._lock:
            idle = self._connection is not None and time.monotonic() - self._used_s > _IDLE_S
            if idle and self._is_there():  # else what is in it is reached by this connection alone
                self._close()

    def close(self) -> None:
        """Let go of it: nothing is read of it, or changed in it, afterwards."""
        with self._lock:
            self._closed = True
            self._close()

    def remove(self) -> int:
        """Remove it from the disk. Returns the bytes that it took there."""
        with self._lock:
            self._closed = True
            size = self.size_bytes()
            self._remove()
            return size

    # ---- inside, with the lock ----

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._open()
            self._check_there()
            with _Transaction(connection, self.path):
                yield connection
        except OutOfMemoryError as error:
            if self.problem is None:  # whoever runs the worker hears of it once, and not with each entry
                log("warning", "a store's file can't be changed", problem=error.message)
            self.problem = error.message
            raise
        if self.problem is not None:
            log("info", "a store's file can be changed again", path=shown(self.path))
            self.problem = None

    def _is_there(self) -> bool:
        return device_of(self.path) == self._device

    def _check_there(self) -> None:
        """See that the file is still where it was made: SQLite goes on with one that was removed, or whose disk was unmounted."""
        if not self._is_there():
            raise gone(self.path.parent)

    def _open(self) -> sqlite3.Connection:
        self._used_s = time.monotonic()
        if self._closed:
            raise StoreNotFoundError(
                "the store was closed meanwhile, or its scope deleted: store.open opens it"
            )
        if self._connection is None:
            if self._device is not None:
                self._check_there()  # it is not made anew in place of what was there
            with errors_of(self.path):
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._connection = connected(self.path, self._about)
            self._device = device_of(self.path)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remove(self) -> None:
        self._close()
        self._device = None
        unlink(self.path)


class ScratchFile(StoreFile):
    """A file that is gone with its store: it takes what is not to be in memory."""

    lasting = False

    def close(self) -> None:
        """Remove it; what can't be removed now is the next time its folder is used."""
        with suppress(OSError):
            self.remove()


class _Transaction:
    """Commits, or rolls back and says what was the matter."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._run("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            try:
                self._run("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            return
        self._roll_back()
        if isinstance(error, sqlite3.Error):
            raise refusal(error, self._path) from error

    def _run(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.Error as error:
            raise refusal(error, self._path) from error

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # it is rolled back already
            self._connection.execute("ROLLBACK")


def _row(
    key: bytes, form: int, put_ms: int, expires_ms: int | None, cost_ms: float, tags: bytes, content_bytes: int,
    vector_bytes: int | None, used_ms: int | None,
) -> Row:  # fmt: skip
    said = tuple(orjson.loads(tags))
    return Row(
        _text(key), form, put_ms, expires_ms, cost_ms, said, content_bytes, vector_bytes or 0, used_ms=used_ms
    )


def _has_uses(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'uses'").fetchone()
    return found is not None


def _shrink(connection: sqlite3.Connection) -> None:
    """Give the file system back what deleting left, where it is much."""
    with suppress(sqlite3.Error):  # there is no room for it now
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        if free * 4 > connection.execute("PRAGMA page_count").fetchone()[0]:
            connection.executescript("PRAGMA incremental_vacuum")  # steps it to its end, unlike execute
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
