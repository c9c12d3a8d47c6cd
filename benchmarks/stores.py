"""Stores: what the system has back when half is asked back, and how long getting and putting take.

The first against a dictionary with a bound (cachetools), by itself and with ``malloc_trim`` after it: each in a process of its
own, in turn. The second in this process, against cachetools, SQLite used directly, and Redis on a socket where there is one.
"""

import ctypes
import random
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson
from cachetools import LRUCache

from benchmarks.harness import heading, interleaved, row
from protocol.vocabulary import StoreKind
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.stores.base import Content, Item, Options, Scope, Store, Tools
from worker.stores.registry import Stores
from worker.telemetry.process_memory import ProcessMemory

MIB = 2**20
TOTAL = 256 * MIB
ROUNDS = 3
SIZES = {
    "entries of 1 to 4 KiB": (1024, 4096),
    "entries of 4 to 64 KiB": (4096, 65_536),
    "of 64 to 512 KiB": (65_536, 524_288),
}
SCOPE = Scope("default_user", "default")
OPERATIONS = 1000
KEYS = 1000


class Consumers:
    """As ``host.consumers``."""

    def __init__(self) -> None:
        self.last: Any = None

    def add(self, consumer: Any) -> None:
        """Keep it."""
        self.last = consumer

    def remove(self, consumer_id: str) -> None:
        """Let it go."""


def opened(folder: Path | None = None, **options: Any) -> tuple[Store, Any]:
    """Return a cache and its consumer."""
    consumers, clock = Consumers(), SystemClock()
    stores = Stores(Tools(consumers, clock.now_ns, lambda: time.time_ns() // 10**6, folder))
    return stores.open("answers", SCOPE, StoreKind.CACHE, Options(**options)).store, consumers.last


def main() -> None:
    """Print the ratios."""
    for name, (low, high) in SIZES.items():
        heading(f"Half of 256 MiB asked back, {name}", "what was asked for; the rate of malloc_trim")
        sides = [partial(_apart, side, low, high) for side in ("ours", "cachetools", "trimmed")]
        seen: list[list[tuple[float, float]]] = [[], [], []]
        for _ in range(ROUNDS):
            for side, into in zip(sides, seen, strict=True):
                into.append(side())
        (ours, our_rate), (plain, _), (trimmed, trim_rate) = (
            tuple(statistics.median(column) for column in zip(*each, strict=True)) for each in seen
        )
        row("back at the system, MiB", ours * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", ">= 0.97")
        row("cachetools", plain * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", "")
        row("cachetools and malloc_trim", trimmed * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", "")
        row("MiB back a second", our_rate, trim_rate, "MiB/s", ">= 1.5")
    for size in (1024, 16_384):
        with sides_of(size) as others:
            _latency(size, others)


# ---- giving back ----


def _apart(side: str, low: int, high: int) -> tuple[float, float]:
    """Run one side in a process of its own. Returns the share that came back, and MiB a second."""
    command = [sys.executable, "-m", "benchmarks.stores", side, str(low), str(high)]
    said = subprocess.run(command, check=True, capture_output=True).stdout
    share, rate = orjson.loads(said)
    return share, rate


def give_back(side: str, low: int, high: int) -> None:
    """Fill, use, ask half back, and print what came back and how fast."""
    chance, values = random.Random(1), []
    left = TOTAL
    while left > 0:
        values.append(chance.randrange(low, high))
        left -= values[-1]
    keys = [f"key-{number}" for number in range(len(values))]
    release = (
        _ours(keys, values, chance)
        if side == "ours"
        else _theirs(keys, values, chance, trim=side == "trimmed")
    )
    resident = ProcessMemory().resident_bytes
    before, begun = resident() or 0, time.process_time()
    release()
    took = time.process_time() - begun  # the processor's: the same on a busy machine
    back = before - (resident() or 0)
    print(orjson.dumps([back / (TOTAL / 2), max(0, back) / MIB / took]).decode())


def _ours(keys: list[str], sizes: list[int], chance: random.Random) -> Callable[[], None]:
    store, consumer = opened(max_bytes=2 * TOTAL)
    for key, size in zip(keys, sizes, strict=True):
        store.put(Item(key, Content(chance.randbytes(size)), cost_ms=chance.random() * 100))
    for _ in keys:
        store.get(keys[int(chance.paretovariate(1)) % len(keys)])

    def release() -> None:
        token = CancelToken(lambda: 0)
        for offer in consumer.offers(TOTAL // 2):
            consumer.release(offer, token)

    return release


def _theirs(keys: list[str], sizes: list[int], chance: random.Random, *, trim: bool) -> Callable[[], None]:
    cache: LRUCache[str, bytes] = LRUCache(2 * TOTAL, getsizeof=len)
    for key, size in zip(keys, sizes, strict=True):
        cache[key] = chance.randbytes(size)
    for _ in keys:
        cache.get(chance.choice(keys))
    libc = ctypes.CDLL(None)

    def release() -> None:
        left = TOTAL // 2
        while left > 0:
            left -= len(cache.popitem()[1])
        if trim:
            libc.malloc_trim(0)

    return release


# ---- getting and putting ----


class Side(Protocol):
    """A store of bytes."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None: ...


class Ours:
    def __init__(self, folder: Path | None = None) -> None:
        self._store, _ = opened(folder, persist=folder is not None or None)

    def get(self, key: str) -> bytes | None:
        found = self._store.get(key)
        return None if found is None else bytes(found.content.data)

    def put(self, key: str, value: bytes) -> None:
        self._store.put(Item(key, Content(value), cost_ms=5.0))


class Plain:
    def __init__(self) -> None:
        self._cache: LRUCache[str, bytes] = LRUCache(256 * MIB, getsizeof=len)

    def get(self, key: str) -> bytes | None:
        return self._cache.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._cache[key] = value


class Sqlite:
    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "direct.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB)")

    def get(self, key: str) -> bytes | None:
        found = self._connection.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def put(self, key: str, value: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))


class Redis:
    """Redis on a socket, by its own protocol: a client library would only add to it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def _ask(self, *parts: bytes) -> bytes | None:
        self._socket.sendall(
            b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(e), e) for e in parts)
        )
        line = self._file.readline()
        if line[:1] != b"$":
            return line
        size = int(line[1:])
        return None if size < 0 else self._file.read(size + 2)[:-2]

    def get(self, key: str) -> bytes | None:
        return self._ask(b"GET", key.encode())

    def put(self, key: str, value: bytes) -> None:
        self._ask(b"SET", key.encode(), value)


@contextmanager
def sides_of(_size: int) -> Iterator[dict[str, Side]]:
    """Make what is compared."""
    folder = Path(tempfile.mkdtemp())
    server = None
    try:
        sides: dict[str, Side] = {"cachetools": Plain(), "SQLite used directly": Sqlite(folder)}
        if shutil.which("redis-server"):
            path = folder / "redis"
            command = [
                "redis-server",
                "--port",
                "0",
                "--unixsocket",
                str(path),
                "--save",
                "",
                "--dir",
                str(folder),
            ]
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while not path.exists():
                time.sleep(0.01)
            sides["Redis on a socket"] = Redis(path)
        yield sides
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _latency(size: int, others: dict[str, Side]) -> None:
    folder = Path(tempfile.mkdtemp())
    memory, disk = Ours(), Ours(folder)
    value = random.Random(2).randbytes(size)
    for name, work in (("put", _puts), ("get", _gets)):
        heading(f"{name}, {size} bytes, microseconds", "each of the others, in the same run")
        runs = [partial(work, side, value) for side in (memory, disk, *others.values())]
        ours, persistent, *theirs = interleaved(2 * ROUNDS + 1, *runs)
        for other, took in zip(others, theirs, strict=True):
            row(f"in memory, against {other}", ours, took, "us", "")
        row("persistent, against SQLite used directly", persistent, theirs[1], "us", "")
    shutil.rmtree(folder, ignore_errors=True)


def _puts(side: Side, value: bytes) -> float:
    begun = time.perf_counter()
    for number in range(OPERATIONS):
        side.put(f"key-{number % KEYS}", value)
    return (time.perf_counter() - begun) * 1e6 / OPERATIONS


def _gets(side: Side, value: bytes) -> float:
    begun = time.perf_counter()
    for number in range(OPERATIONS):
        if side.get(f"key-{number * 7 % KEYS}") is None:
            raise LookupError(value)
    return (time.perf_counter() - begun) * 1e6 / OPERATIONS


if __name__ == "__main__":
    if len(sys.argv) > 1:
        give_back(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
