"""A store of vectors against plain numpy over a float32 matrix: bytes a vector, recall, time of a query, bytes back.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.vectors --count 5000 --dimensions 384

The vectors are random, and in clusters as texts' are. All figures are of one run, the times of interleaved rounds, and of the
processor: the same on a busy machine (through stdin and stdout they are by the clock).
"""

import argparse
import gc
import time
import tracemalloc

import numpy as np

from benchmarks.harness import heading, interleaved, processor_seconds, row, seconds, worker
from protocol.vocabulary import StoreKind
from worker.core.clock import SystemClock
from worker.plugins import Consumer
from worker.stores.base import Choice, Content, Item, Options, Question, Scope, Store, Tools
from worker.stores.registry import Stores
from worker.telemetry.process_memory import ProcessMemory

NEAREST = 10
RECALL_LIMIT = 0.995
HERE = Scope("default_user", "default")


class NoConsumers:
    """Where no one makes headroom."""

    def add(self, consumer: Consumer) -> None:
        pass

    def remove(self, consumer_id: str) -> None:
        pass


def opened(count: int) -> Store:
    """Open a store among surroundings of its own."""
    stores = Stores(Tools(NoConsumers(), SystemClock().now_ns, lambda: 0))
    options = Options(max_entries=count, max_bytes=2**32)
    return stores.open("benchmark", HERE, StoreKind.VECTORS, options).store


def made(chance: np.random.Generator, shape: str, count: int, dimensions: int) -> np.ndarray:
    """Return vectors of length 1, each of a direction of its own or near one of a hundred."""
    found = chance.standard_normal((count, dimensions))
    if shape == "clustered":
        found = chance.standard_normal((100, dimensions))[chance.integers(0, 100, count)] + 0.3 * found
    of_length_1: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return of_length_1.astype(np.float32)


def filled(vectors: np.ndarray) -> tuple[Store, float]:
    """Return a store of vectors, and what putting one took, in milliseconds."""
    store = opened(len(vectors))
    begun = time.perf_counter()
    for number, vector in enumerate(vectors):
        store.put(Item(f"{number:06}", Content(b"1"), vector=vector))
    return store, (time.perf_counter() - begun) * 1000 / len(vectors)


def plain(matrix: np.ndarray, query: np.ndarray) -> list[int]:
    """Find the nearest as one does without a store."""
    scores = matrix @ query
    near = np.argpartition(scores, -NEAREST)[-NEAREST:]
    return [int(each) for each in near[np.argsort(-scores[near])]]


def found(store: Store, query: np.ndarray) -> list[int]:
    """Find the nearest in the store."""
    return [int(each.key) for each in store.search(Question(query, None, NEAREST))]


def measure(shape: str, count: int, dimensions: int, rounds: int) -> bool:
    """Print all figures of one shape; tell whether the recall is what is promised."""
    chance, resident = np.random.default_rng(7), ProcessMemory().resident_bytes
    vectors = made(chance, shape, count, dimensions)
    queries = made(np.random.default_rng(7), shape, count, dimensions)[:: max(1, count // 200)]
    queries = queries + 0.02 * chance.standard_normal(queries.shape).astype(np.float32)
    matrix = vectors.copy()
    gc.collect()
    before = resident() or 0
    store, put_ms = filled(vectors)
    grown = (resident() or 0) - before
    print(f"\n{shape}: {count} x {dimensions}")
    print(
        f"  bytes a vector          {2 * dimensions + 8} ({4 * dimensions} in float32), {grown // count} with key, value and tables"
    )
    hits = sum(len(set(plain(matrix, each)) & set(found(store, each))) for each in queries)
    recall = hits / (NEAREST * len(queries))
    print(f"  recall@{NEAREST} of float32    {recall:.4f} ({len(queries)} queries; at least {RECALL_LIMIT})")
    tracemalloc.start()
    found(store, queries[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"  a query's own memory    {peak / 2**20:.2f} MiB (all in float32: {matrix.nbytes / 2**20:.2f})")
    print(f"  putting one             {put_ms:.3f} ms")
    halves = matrix.astype(np.float16)
    turn = iter(range(10**9))

    def query() -> np.ndarray:
        found: np.ndarray = queries[next(turn) % len(queries)]
        return found

    ours, singles, converted = interleaved(
        rounds,
        lambda: processor_seconds(lambda: found(store, query())),
        lambda: processor_seconds(lambda: plain(matrix, query())),
        lambda: processor_seconds(lambda: plain(halves.astype(np.float32), query())),
    )
    heading("a query, median ms", "plain numpy, in this run")
    row("float32 matrix, twice the memory", ours * 1e3, singles * 1e3, "ms", "-")
    row("float16 matrix, converted for the query", ours * 1e3, converted * 1e3, "ms", "< 1")
    held, freed = resident() or 0, (2 * dimensions + 8) * (count // 2)
    for number in range(0, count, 2):
        store.delete(Choice(key=f"{number:06}"))
    back = held - (resident() or 0)
    print(f"  half deleted            {back / freed:.1%} of {freed} bytes of vectors are back at the system")
    return recall >= RECALL_LIMIT


def through_the_worker(count: int, dimensions: int, rounds: int) -> None:
    """Print what a query takes on stdin and stdout."""
    vectors = made(np.random.default_rng(7), "clustered", count, dimensions)
    with worker() as peer:
        peer.ask("store.open", store="x", kind="vectors", options={"max_entries": count})
        for number, vector in enumerate(vectors):
            peer.ask("store.put", store="x", key=f"{number:06}", value=number, vector=vector.tolist())
        query = vectors[3].tolist()
        matrix = vectors
        ours, singles = interleaved(
            rounds,
            lambda: seconds(lambda: peer.ask("store.search", store="x", vector=query)),
            lambda: seconds(lambda: plain(matrix, vectors[3])),
        )
    row("through stdin and stdout, JSON", ours * 1e3, singles * 1e3, "ms", "-")


def main() -> int:
    """Measure; 1 where the recall is too small."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    good = [
        measure(each, arguments.count, arguments.dimensions, arguments.rounds)
        for each in ("random", "clustered")
    ]
    through_the_worker(arguments.count, arguments.dimensions, arguments.rounds)
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
