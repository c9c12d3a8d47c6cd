"""A store's file: SQLite, with a version of its format, so that what was stored is there after any end of the process.

Each change is one transaction: it is there whole or not at all. What is in a file is said by the file itself, so that
its name need not be one that a request gave: names are digests.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from protocol.vocabulary import VectorMetric
from worker.core.sure_lock import SureLock
from worker.plugins import OutOfMemoryError, StoreNotFoundError, UnsupportedError
from worker.stores.base import MAKING, Content, Form, Home, Options, Row, Scope

FORMAT = 2
"""Of the tables below, and of what is in them. A file of a later one is refused, and stays as it is; vectors of the first are renewed."""
_APPLICATION = 0x4D57_5354
_MAGIC = b"SQLite format 3\0"
_PAGE_BYTES = 4096
_USES = "CREATE TABLE IF NOT EXISTS uses (key BLOB PRIMARY KEY, used_ms INTEGER NOT NULL) WITHOUT ROWID"
"""When entries were used last. It is made with the first use that is told; versions before it leave it alone."""
_BESIDE = ("-wal", "-shm", "-journal")
_IDLE_S = 30.0
_CACHE_KIB = 256

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE entries (
  key BLOB PRIMARY KEY, form INTEGER NOT NULL, put_ms INTEGER NOT NULL, expires_ms INTEGER, cost_ms REAL NOT NULL,
  tags BLOB NOT NULL, vector BLOB, content BLOB NOT NULL
);
"""


def about(scope: Scope, home: Home) -> dict[str, str]:
    """Return what a store's file says that it is."""
    kind, name = home
    return {"user_id": scope.user_id, "project_id": scope.project_id, "kind": kind, "store": name}


class StoreFile:
    """One store's file. Thread-safe; each call is one transaction.

    OutOfMemoryError where its file system is full: nothing was changed. UnsupportedError for a file that is no store's,
    another's, or of a later version.
    """

    lasting = True

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        self.path = path
        self._about = about
        self._lock = SureLock()
        # All mutable state: the connection while it is in use, and what reading took.
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        """Whether its store was closed: it is not to be made anew by who is late."""
        self._used_s = 0.0
        self.read_ms = 0.2
        """What reading an entry takes, as it was of late."""

    def rows(self) -> list[Row]:
        """Return what is known about all entries."""
        with self._lock, _said(self.path):
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
        with self._lock, _said(self.path):
            if self._closed:
                return []
            found = self._open().execute("SELECT key, vector FROM entries WHERE vector IS NOT NULL")
            return [(_text(key), vector) for key, vector in found]

    def options(self) -> Options:
        """Return the options that it was opened with last."""
        with self._lock, _said(self.path):
            found = self._open().execute("SELECT value FROM about WHERE name = 'options'").fetchone()
        said: dict[str, Any] = {} if found is None else orjson.loads(found[0])
        if (metric := said.get("metric")) is not None:
            said["metric"] = VectorMetric(metric)
        return Options(**{name: value for name, value in said.items() if name in vars(Options())})

    def set_options(self, options: Options) -> None:
        """Keep options."""
        with self._lock, self._transaction() as connection:
            _say(connection, "options", vars(options))

    def read(self, key: str) -> Content | None:
        """Return an entry's content; None where it is not there any more."""
        begun = time.perf_counter()
        with self._lock, _said(self.path):
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
        with self._lock, self._transaction() as connection:
            if gone:
                connection.executemany("DELETE FROM entries WHERE key = ?", gone)
                if _has_uses(connection):
                    connection.executemany("DELETE FROM uses WHERE key = ?", gone)
            values = [
                (
                    _blob(r.key),
                    r.form,
                    r.put_ms,
                    r.expires_ms,
                    r.cost_ms,
                    orjson.dumps(r.tags),
                    r.vector,
                    r.content,
                )
                for r in writes
            ]
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        if gone:
            self._shrink()

    def clear(self) -> None:
        """Delete all entries. It needs no room for that: the file is made anew."""
        with self._lock, _said(self.path):
            told = self._open().execute("SELECT value FROM about WHERE name = 'options'").fetchone()
            self._remove()
            if told is not None:
                with self._transaction() as connection:
                    _say(connection, "options", orjson.loads(told[0]))

    def size_bytes(self) -> int:
        """Return what it takes on disk."""
        sizes = []
        for path in _parts(self.path):
            with suppress(OSError):
                sizes.append(path.stat().st_size)
        return sum(sizes)

    def rest(self) -> None:
        """Let go of it where it was not used for a while; the next use opens it again."""
        with self._lock:
            if self._connection is not None and time.monotonic() - self._used_s > _IDLE_S:
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

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._open(), self.path)

    def _open(self) -> sqlite3.Connection:
        self._used_s = time.monotonic()
        if self._closed:
            raise StoreNotFoundError(
                "the store was closed meanwhile, or its scope deleted: store.open opens it"
            )
        if self._connection is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = _connected(self.path, self._about)
        return self._connection

    def _shrink(self) -> None:
        """Give the file system back what deleting left, where it is much."""
        with self._lock, suppress(sqlite3.Error):  # there is no room for it now
            connection = self._open()
            free = connection.execute("PRAGMA freelist_count").fetchone()[0]
            if free * 4 > connection.execute("PRAGMA page_count").fetchone()[0]:
                connection.executescript("PRAGMA incremental_vacuum")  # steps it to its end, unlike execute
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _remove(self) -> None:
        self._close()
        _unlink(self.path)


class ScratchFile(StoreFile):
    """A file that is gone with its store: it takes what is not to be in memory."""

    lasting = False

    def close(self) -> None:
        """Remove it."""
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
            raise _refused(error, self._path) from error

    def _run(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.Error as error:
            raise _refused(error, self._path) from error

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # it is rolled back already
            self._connection.execute("ROLLBACK")


def described(path: Path) -> tuple[dict[str, str], int]:
    """Return what a file says that it is, and how many entries are in it. UnsupportedError where it says nothing."""
    with closing(_reached(path)) as connection, _said(path):
        _check_format(connection, path)
        if _unfinished(connection):
            raise UnsupportedError(f"{path} is unfinished: nothing was stored in it yet")
        about = {
            name: orjson.loads(value)
            for name, value in connection.execute("SELECT name, value FROM about")
            if name != "options"
        }
        return about, connection.execute("SELECT count(*) FROM entries").fetchone()[0]


def _connected(path: Path, about: dict[str, str]) -> sqlite3.Connection:
    """Return a connection to a store's file, which is made where there is none, or an unfinished one."""
    if not path.exists() or _cut_short(path):
        _make(path, about)
    connection = _reached(path)
    try:
        with _said(path):
            _check_format(connection, path)
            if _unfinished(connection):
                connection.close()
                _make(path, about)
                connection = _reached(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA journal_size_limit = 1048576")
            _check(connection, about, path)
            _renew(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _renew(connection: sqlite3.Connection) -> None:
    """Have a file of the first format be of this one, all of it or nothing: its vectors were kept otherwise."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == FORMAT:
        return
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT EXISTS (SELECT 1 FROM entries WHERE vector IS NOT NULL)").fetchone()[0]:
        from worker.stores.vector_rows import renewed  # noqa: PLC0415 - only where there are vectors

        connection.create_function("renewed", 1, renewed, deterministic=True)
        connection.execute("UPDATE entries SET vector = renewed(vector) WHERE vector IS NOT NULL")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _reached(path: Path) -> sqlite3.Connection:
    """Return a connection to a file as it is. It writes nothing by itself."""
    with _said(path), ExitStack() as failed:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        failed.callback(connection.close)
        # First of all: whoever has it alone needs no file of shared memory, for which a full disk has no room.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA synchronous = NORMAL")
        failed.pop_all()
        return connection


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Have what SQLite finds wrong with a file said as this module says it."""
    try:
        yield
    except sqlite3.Error as error:
        raise _refused(error, path) from error


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > FORMAT or application not in {0, _APPLICATION}:
        message = f"{path} is of format {version}, and this worker knows up to {FORMAT}: it stays as it is"
        raise UnsupportedError(message, format=version)


def _cut_short(path: Path) -> bool:
    """Tell whether a file ends before its first page does: there is nothing in it."""
    with path.open("rb") as file:
        begun = file.read(_PAGE_BYTES)
    return len(begun) < _PAGE_BYTES and begun[: len(_MAGIC)] == _MAGIC[: len(begun)]


def _unfinished(connection: sqlite3.Connection) -> bool:
    """Tell whether a file was never made whole: it has no tables, or says nothing about itself and has no entries."""
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        return True
    (empty,) = connection.execute(
        "SELECT NOT EXISTS (SELECT 1 FROM about) AND NOT EXISTS (SELECT 1 FROM entries)"
    ).fetchone()
    return bool(empty)


def _make(path: Path, about: dict[str, str]) -> None:
    """Make a file under another name, and give it its own when it is whole: whatever ends this leaves none, or all of it."""
    new = path.with_name(path.name + MAKING)
    _unlink(new)
    try:
        with _said(path), closing(_reached(new)) as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
            for name, value in about.items():
                _say(connection, name, value)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
        _unlink(path)  # with its journals: one that is left would be taken for the new file's
        new.replace(path)
    except BaseException:
        _unlink(new)
        raise


def _check(connection: sqlite3.Connection, about: dict[str, str], path: Path) -> None:
    said = {name: orjson.loads(value) for name, value in connection.execute("SELECT name, value FROM about")}
    if any(said.get(name) != value for name, value in about.items()):
        raise UnsupportedError(f"{path} is the file of another store, and stays as it is")


def _say(connection: sqlite3.Connection, name: str, value: Any) -> None:
    connection.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, orjson.dumps(value)))


def _refused(error: sqlite3.Error, path: Path) -> OutOfMemoryError | UnsupportedError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        message = f"the file system of {path.parent} takes no more ({error}); store.clear needs no room there"
        return OutOfMemoryError(message, folder=str(path.parent))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return UnsupportedError(
            f"{path} is in use by another process: each worker needs a --store-folder of its own"
        )
    return UnsupportedError(f"{path} can't be used as a store's file, and stays as it is: {error}")


def _unlink(path: Path) -> None:
    for each in _parts(path):
        each.unlink(missing_ok=True)


def _parts(path: Path) -> Iterator[Path]:
    yield path
    for suffix in _BESIDE:
        yield path.with_name(path.name + suffix)


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


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _blob(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
