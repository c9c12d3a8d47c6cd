"""What Python's collector costs a worker, by how it is set: pauses, processor time, latency and memory, on real requests.

    python -m benchmarks.garbage --rounds 5

Each setting has a worker of its own in each round, one after the other. First it gets its state: live allocations and a
store with entries, which the collector has to look through. Then it is asked one request after the other, so that a pause is
somebody's latency: entries are put and read, memory is made and freed, figures are asked for, models are loaded and unloaded.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Peer, worker
from protocol.record import Record
from tests.rigs.model_files import write_model

KIB, MIB = 2**10, 2**20


class Setting(Record):
    """How the collector is set once a worker has started."""

    thresholds: tuple[int, int, int] | None
    """None turns it off."""
    frozen: bool | str = True
    """Whether what the start made is passed over; ``again``: what the state made, too."""


SETTINGS = {
    "as it is: (700, 10, 10), frozen at the start": Setting((700, 10, 10)),
    "(700, 10, 10), nothing frozen": Setting((700, 10, 10), frozen=False),
    "(700, 10, 10), state frozen, too": Setting((700, 10, 10), frozen="again"),
    "(10000, 10, 10)": Setting((10_000, 10, 10)),
    "off": Setting(None),
}


class Measured(Record):
    """One worker in one round."""

    cpu_us: float
    """Processor time of a request, all of the worker's threads."""
    p50_us: float
    p99_us: float
    worst_us: float
    """The mean of the worst ten: one alone is the machine's."""
    collections: int
    full: int
    paused_ms: float
    longest_us: float
    rss_mib: float
    rss_grew_mib: float


def measure(setting: Setting, folder: Path, allocations: int, entries: int, requests: int) -> Measured:
    """Run one worker."""
    options = ("--models", str(folder / "models.yaml"), "--plugin", "benchmarks.garbage_plugin")
    with worker(*options) as peer:
        for index in range(allocations):
            peer.ask("memory.allocate", size_bytes=4 * KIB, owner=f"owner-{index % 50}", purpose="state")
        peer.ask("store.open", store="entries", kind="cache", options={"max_bytes": 64 * MIB})
        for index in range(entries):
            _put(peer, index)
        process = psutil.Process(peer.pid)
        before = process.memory_info().rss
        peer.ask("garbage.set", thresholds=setting.thresholds, frozen=setting.frozen)
        cpu = _cpu_seconds(process)
        latencies = sorted(_work(peer, entries, requests))
        took = _cpu_seconds(process) - cpu
        after = process.memory_info().rss
        told = peer.ask("garbage.read")
    pauses = told["pauses_us"]
    return Measured(
        cpu_us=took / requests * 1e6,
        p50_us=latencies[len(latencies) // 2],
        p99_us=latencies[-len(latencies) // 100],
        worst_us=statistics.mean(latencies[-10:]),
        collections=len(pauses),
        full=told["generations"][2],
        paused_ms=sum(pauses) / 1000,
        longest_us=max(pauses, default=0.0),
        rss_mib=after / MIB,
        rss_grew_mib=(after - before) / MIB,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _put(peer: Peer, index: int) -> None:
    value = {"text": "x" * 200, "tokens": list(range(20)), "meta": {"index": index, "tags": ["a", "b"]}}
    peer.ask("store.put", store="entries", key=f"key-{index}", value=value, cost_ms=5)


def _work(peer: Peer, entries: int, requests: int) -> list[float]:
    """Ask one request after the other. Returns how long each took, in microseconds."""
    latencies = []
    held: list[str] = []

    def timed(action: str, **data: Any) -> dict[str, Any]:
        started = time.perf_counter()
        answer = peer.ask(action, **data)
        latencies.append((time.perf_counter() - started) * 1e6)
        return answer

    for index in range(requests):
        match index % 8:
            case 0 | 1:
                timed("store.get", store="entries", key=f"key-{index * 7 % max(1, entries)}")
            case 2:
                _put(peer, index % max(1, entries))
            case 3 | 4:
                held.append(timed("memory.allocate", size_bytes=64 * KIB, owner="work")["allocation_id"])
            case 5 | 6:
                timed("memory.deallocate", allocation_id=held.pop(0))
            case _ if index % 200 == 7:
                peer.ask("memory.load_model", model_id="abc"[index // 200 % 3])
                peer.ask("memory.unload_model", model_id="abc"[index // 200 % 3])
            case _ if index % 40 == 15:
                timed("memory.get_allocations", limit=100)
            case _:
                timed("memory.get_status", include_usage_stats=True)
    return latencies


def main() -> None:
    """Compare the settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--allocations", type=int, default=2_000)
    parser.add_argument("--entries", type=int, default=5_000)
    parser.add_argument("--requests", type=int, default=8_000)
    arguments = parser.parse_args()
    found: dict[str, list[Measured]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in "abc":
            write_model(folder / f"{model}.safetensors", *[8 * KIB] * 100)
        declared = "".join(f"  - {{id: {each}, path: {each}.safetensors}}\n" for each in "abc")
        (folder / "models.yaml").write_text("models:\n" + declared)
        for _ in range(arguments.rounds):
            for setting, into in found.items():
                into.append(
                    measure(SETTINGS[setting], folder, arguments.allocations, arguments.entries, arguments.requests)
                )  # fmt: skip
    state = f"{arguments.allocations:,} allocations and {arguments.entries:,} entries"
    print(f"{arguments.requests:,} requests to a worker with {state}; medians of {arguments.rounds} rounds\n")
    heads = (
        "CPU us",
        "p50 us",
        "p99 us",
        "worst us",
        "collections",
        "full",
        "paused ms",
        "longest us",
        "RSS MiB",
        "grew MiB",
    )
    print(f"{'':46}" + "".join(f"{head:>12}" for head in heads))
    for setting, rows in found.items():
        medians = [
            statistics.median(getattr(row, field) for row in rows) for field in Measured.__dataclass_fields__
        ]
        print(f"{setting:46}" + "".join(f"{median:12,.1f}" for median in medians), flush=True)


if __name__ == "__main__":
    main()
