"""Stores: what the system has back when half is asked back, how long listing many keys takes, and getting and putting.

The first against a dictionary with a bound (cachetools), by itself and with ``malloc_trim`` after it: each in a process of its
own, in turn; and what went against exactly the cheapest entries. Timed is all from asking until it is back: of ours choosing by
price, forgetting and unmapping; of the dictionary's removing the entries used longest ago, which frees them (and unmaps what
its allocator mapped by itself), and ``malloc_trim``. Beside it the floor: as many bytes of bare maps of 2 MiB that are unmapped,
of huge pages, as segments that are full are, and of 4 KiB, as a heap is. So much the system takes, whoever asks.
The last in this process, against cachetools, SQLite used directly, and Redis on a socket where there is one. Times are the
processor's, of this process: the same on a busy machine.
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

from benchmarks.harness import heading, interleaved, processor_seconds, row
from protocol.vocabulary import StoreKind
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.stores.base import Choice, Content, Item, Options, Scope, Store, Tools
from worker.stores.maps import PAGE_BYTES, anonymous, collapse
from worker.stores.registry import Stores
from worker.stores.segment import SEGMENT_BYTES
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
        names = ("ours", "cachetools", "trimmed", "bare huge", "bare small")
        runs = [partial(_apart, side, low, high) for side in names]
        seen: list[list[tuple[float, float]]] = [[] for _ in names]
        for _ in range(ROUNDS):
            for side, into in zip(runs, seen, strict=True):
                into.append(side())
        (ours, our_rate), (plain, _), (trimmed, trim_rate), (_, huge_rate), (_, small_rate) = (
            tuple(statistics.median(column) for column in zip(*each, strict=True)) for each in seen
        )
        row("back at the system, MiB", ours * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", ">= 0.97")
        row("cachetools", plain * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", "")
        row("cachetools and malloc_trim", trimmed * TOTAL / 2 / MIB, TOTAL / 2 / MIB, "MiB", "")
        row("MiB back a second", our_rate, trim_rate, "MiB/s", ">= 1.5")
        row("unmapping alone, huge pages", huge_rate, trim_rate, "MiB/s", "the floor")
        row("unmapping alone, 4 KiB", small_rate, trim_rate, "MiB/s", "")
        more, of_all = _apart("choice", low, high)
        print(f"what went cost {more:.1%} more than exactly the cheapest, {of_all:.2%} of what all are worth")
    listing()
    for size in (1024, 16_384):
        with sides() as others:
            _latency(size, others)


# ---- giving back ----


def _apart(side: str, low: int, high: int) -> tuple[float, float]:
    """Run one side in a process of its own. Returns the share that came back, and MiB a second, or what ``_choice`` does."""
    command = [sys.executable, "-m", "benchmarks.stores", side, str(low), str(high)]
    first, second = orjson.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return first, second


def give_back(side: str, low: int, high: int) -> None:
    """Fill, use, ask half back, and print what came back and how fast."""
    chance, values = random.Random(1), []
    left = TOTAL
    while left > 0:
        values.append(chance.randrange(low, high))
        left -= values[-1]
    keys = [f"key-{number}" for number in range(len(values))]
    if side == "choice":
        print(orjson.dumps(_choice(keys, values, *_filled(keys, values, chance))).decode())
        return
    if side == "ours":
        release: Callable[[], None] = partial(_release, _filled(keys, values, chance)[1])
    elif side.startswith("bare"):
        release = _bare(huge=side == "bare huge")
    else:
        release = _theirs(keys, values, chance, trim=side == "trimmed")
    resident = ProcessMemory().resident_bytes
    before, begun = resident() or 0, time.process_time()
    release()
    took = time.process_time() - begun  # the processor's: the same on a busy machine
    back = before - (resident() or 0)
    print(orjson.dumps([back / (TOTAL / 2), max(0, back) / MIB / took]).decode())


def _filled(keys: list[str], sizes: list[int], chance: random.Random) -> tuple[Store, Any]:
    """Return a cache that was used, and its consumer."""
    store, consumer = opened(max_bytes=2 * TOTAL)
    for key, size in zip(keys, sizes, strict=True):
        store.put(Item(key, Content(chance.randbytes(size)), cost_ms=chance.random() * 100))
    for _ in keys:
        store.get(keys[int(chance.paretovariate(1)) % len(keys)])
    consumer.tend()  # as once a second in a worker: what was learned of uses by then is no part of a release
    return store, consumer


def _release(consumer: Any) -> None:
    """Have half of it back."""
    token = CancelToken(lambda: 0)
    for offer in consumer.offers(TOTAL // 2):
        consumer.release(offer, token)


def _choice(keys: list[str], sizes: list[int], store: Any, consumer: Any) -> tuple[float, float]:
    """Return how much dearer what goes is than exactly the cheapest entries of as many bytes, by these and by all there are."""
    pricing, memory, table = consumer.pricing(), consumer.memory, consumer.memory.owners[store.number]
    worth = {key: pricing.of(memory.head(table.place(key))) for key in keys}
    size_of = dict(zip(keys, sizes, strict=True))
    _release(consumer)
    gone = [key for key in keys if key not in table]
    left, cheapest = sum(map(size_of.__getitem__, gone)), 0.0
    for key in sorted(keys, key=lambda key: worth[key] / size_of[key]):
        if left <= 0:
            break
        left -= size_of[key]
        cheapest += worth[key]
    paid = sum(map(worth.__getitem__, gone))
    return paid / cheapest - 1, (paid - cheapest) / sum(worth.values())


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


def _bare(*, huge: bool) -> Callable[[], None]:
    """Return what unmaps half of maps that are written."""
    maps = [anonymous(SEGMENT_BYTES, "a benchmark") for _ in range(TOTAL // SEGMENT_BYTES)]
    for each in maps:
        if huge:
            each[0] = 0
            collapse(each, 0, SEGMENT_BYTES)
        for at in range(0, SEGMENT_BYTES, PAGE_BYTES):
            each[at] = 1

    def release() -> None:
        for each in maps[::2]:
            each.close()

    return release


# ---- listing ----


def listing(count: int = 100_000) -> None:
    """Print what listing and deleting by prefix take among many keys."""
    store, _ = opened()
    for number in range(count):
        store.put(Item(f"document-{number:06}", Content(b"1")))
    heading(f"Among {count:,} keys", "the first page")
    first = processor_seconds(lambda: store.page(None, 100))
    later = [
        processor_seconds(partial(store.page, f"document-{at:06}", 100)) for at in range(0, count, count // 8)
    ]
    row("a page of 100, later", statistics.median(later) * 1e3, first * 1e3, "ms", "")
    took = processor_seconds(lambda: store.delete(Choice(prefix="document-05000")))
    row("deleting 10 by their prefix", took * 1e3, first * 1e3, "ms", "")


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
def sides() -> Iterator[dict[str, Side]]:
    """Make what is compared."""
    folder = Path(tempfile.mkdtemp())
    server = None
    try:
        made: dict[str, Side] = {"cachetools": Plain(), "SQLite used directly": Sqlite(folder)}
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
            made["Redis on a socket"] = Redis(path)
        yield made
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
        if "Redis on a socket" in others:
            redis = partial(work, others["Redis on a socket"], value, time.perf_counter)
            [waited] = interleaved(ROUNDS, redis)
            row("until Redis has answered, by the clock", ours, waited, "us", "")
    shutil.rmtree(folder, ignore_errors=True)


def _puts(side: Side, value: bytes, clock: Callable[[], float] = time.process_time) -> float:
    begun = clock()
    for number in range(OPERATIONS):
        side.put(f"key-{number % KEYS}", value)
    return (clock() - begun) * 1e6 / OPERATIONS


def _gets(side: Side, value: bytes, clock: Callable[[], float] = time.process_time) -> float:
    begun = clock()
    for number in range(OPERATIONS):
        if side.get(f"key-{number * 7 % KEYS}") is None:
            raise LookupError(value)
    return (clock() - begun) * 1e6 / OPERATIONS


if __name__ == "__main__":
    if len(sys.argv) > 1:
        give_back(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
