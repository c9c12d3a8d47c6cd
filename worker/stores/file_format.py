"""The format of a store's file: made whole or not at all, told from others', and renewed where an earlier version made it."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import orjson

from worker.plugins import UnsupportedError
from worker.stores.base import MAKING
from worker.stores.disk import errors_of, is_there

FORMAT = 2
"""Of the tables below, and of what is in them. A file of a later one is refused, and stays as it is; vectors of the first are renewed."""
_APPLICATION = 0x4D57_5354
_MAGIC = b"SQLite format 3\0"
_PAGE_BYTES = 4096
_BESIDE = ("-wal", "-shm", "-journal")
_CACHE_KIB = 256

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE entries (
  key BLOB PRIMARY KEY, form INTEGER NOT NULL, put_ms INTEGER NOT NULL, expires_ms INTEGER, cost_ms REAL NOT NULL,
  tags BLOB NOT NULL, vector BLOB, content BLOB NOT NULL
);
"""


def described(path: Path) -> tuple[dict[str, Any], int]:
    """Return what a file says that it is, and how many entries are in it. UnsupportedError where it says nothing."""
    with closing(_reached(path)) as connection, errors_of(path):
        _check_format(connection, path)
        if _unfinished(connection):
            raise UnsupportedError(f"{path} is unfinished: nothing was stored in it yet")
        about = said_in(connection, path)
        about.pop("options", None)
        return about, connection.execute("SELECT count(*) FROM entries").fetchone()[0]


def connected(path: Path, about: dict[str, str]) -> sqlite3.Connection:
    """Return a connection to a store's file, which is made where there is none, or an unfinished one."""
    if not is_there(path) or _cut_short(path):
        _make(path, about)
    connection = _reached(path)
    try:
        with errors_of(path):
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
    with errors_of(path), ExitStack() as failed:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        failed.callback(connection.close)
        # First of all: whoever has it alone needs no file of shared memory, for which a full disk has no room.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA synchronous = NORMAL")
        failed.pop_all()
        return connection


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
    with errors_of(path):
        unlink(new)
    try:
        with errors_of(path), closing(_reached(new)) as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
            for name, value in about.items():
                set_about(connection, name, value)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
        with errors_of(path):
            unlink(path)  # with its journals: one that is left would be taken for the new file's
            new.replace(path)
    except BaseException:
        with suppress(OSError):
            unlink(new)
        raise


def _check(connection: sqlite3.Connection, about: dict[str, str], path: Path) -> None:
    said = said_in(connection, path)
    if any(said.get(name) != value for name, value in about.items()):
        raise UnsupportedError(f"{path} is the file of another store, and stays as it is")


def said_in(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Return what a file says of itself, its store's options among it. UnsupportedError where that is damaged."""
    rows = connection.execute("SELECT name, value FROM about")
    try:
        return {name: orjson.loads(value) for name, value in rows}
    except ValueError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UnsupportedError:
    """Return what to raise for a file that says of itself what can't be."""
    return UnsupportedError(
        f"{path} is damaged, and stays as it is: what it says of itself can't be read: {error}"
    )


def set_about(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep what a file says of itself under a name."""
    connection.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, orjson.dumps(value)))


def unlink(path: Path) -> None:
    """Remove a file, with its journals."""
    for each in parts(path):
        each.unlink(missing_ok=True)


def parts(path: Path) -> Iterator[Path]:
    """Return a file, and where its journals are."""
    yield path
    for suffix in _BESIDE:
        yield path.with_name(path.name + suffix)
