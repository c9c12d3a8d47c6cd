"""From critical to low: models alone against all that holds memory, in time, in rebuilding, and in what the system has back.

    python -m benchmarks.relief --rounds 5 [--first]

Each side has a worker of its own, in turn (1.5 GiB are needed): models that are copied, a cache in the worker, and a host's cache
in this process, which answers by unmapping. All of it lies in pages of one kind, in huge ones and then, on Linux, once more in
small ones, which the system takes back many times more slowly; and either side has to give about as many bytes. For the worker
the machine is these two processes (``relief_worker``): what others take and give is not seen. The thresholds and the reserve are
set so that the device is critical, and low again when 384 MiB are free. What is allocated is not written: how long the system
takes for new pages is no part of it. Before that either side was asked once what would go, as a view of the pressure asks all the
time: with ``--first`` it was not, and what is measured is also that the worker does all this for the first time of its life.
"""

import argparse
import ctypes
import mmap
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psutil

from protocol.vocabulary import Initialize, OptimizationLevel, PressureLevel
from worker.client import Client, connect

MIB = 2**20
MODELS, MODEL_BYTES = 5, 120 * MIB
"""Three of them are about what is missing."""
CACHE_BYTES, ENTRY_BYTES = 448 * MIB, tuple(size * 1024 for size in (64, 128, 192, 256, 320, 384, 448, 512))
CACHE_COST_MS = (0.02, 20.0)
"""Of an entry, from rendering a text anew to asking an index: as likely near the one as near the other, by orders of magnitude."""
BLOCKS, BLOCK_BYTES, HOST_MS_PER_MIB = 96, 4 * MIB, 0.2
NEEDED, HEADROOM = 384 * MIB, 32 * MIB
NOISE = 16 * MIB
"""Other processes take and give so much from one moment to the next."""
BACK_TARGET = 0.97

_COMMAND = (sys.executable, "-m", "benchmarks.relief_worker")

Went = tuple[int, float]
"""Bytes by the word of whoever gave them back, and what building all of them again takes in milliseconds."""


class DisturbedError(Exception):
    """Other processes took so much meanwhile that the device can't be low."""


def _private(size_bytes: int) -> mmap.mmap:
    """Return memory of this process alone, as that of a cache is: shared pages take the system longer to have back."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size_bytes)
    made = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        made.madvise(mmap.MADV_HUGEPAGE)  # as models are, unless the process is kept from it
    return made


class HostCache:
    """Memory of this process, registered at a worker, and unmapped when it asks for it."""

    def __init__(self, client: Client) -> None:
        self._client, self._blocks = client, [_private(BLOCK_BYTES) for _ in range(BLOCKS)]
        for block in self._blocks:
            block.write(b"\1" * BLOCK_BYTES)
        self._events = client.events("memory.release_requested")
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        held = BLOCKS * BLOCK_BYTES
        offer = {"bytes": held, "cost_ms": HOST_MS_PER_MIB * held / MIB}
        client.call(
            "memory.register_consumer", {"consumer_id": "host", "held_bytes": held, "offers": [offer]}
        )

    def _answer(self) -> None:
        for event in self._events:
            blocks = min(-(-event.data.bytes // BLOCK_BYTES), len(self._blocks))
            for _ in range(blocks):
                self._blocks.pop().close()
            self._client.released(consumer_id="host", bytes=blocks * BLOCK_BYTES)

    def close(self) -> None:
        self._events.close()
        self._thread.join()
        while self._blocks:
            self._blocks.pop().close()


class Machine:
    """A worker, what fills it, and a device that is critical."""

    def __init__(self, client: Client, *, first: bool) -> None:
        self.client, chance = client, random.Random(1)
        for number in range(MODELS):
            client.load_model(model_id=f"m{number}")
        client.call(
            "store.open", {"store": "answers", "kind": "cache", "options": {"max_bytes": 2 * CACHE_BYTES}}
        )
        sources = {
            size: client.allocate(size_bytes=size, initialize=Initialize.ZERO).allocation_id
            for size in ENTRY_BYTES
        }
        self.costs, left = dict[str, float](), CACHE_BYTES
        while left > 0:
            key, size = f"entry-{len(self.costs):05}", chance.choice(ENTRY_BYTES)
            low, high = CACHE_COST_MS
            self.costs[key] = low * (high / low) ** chance.random()
            client.store_put(store="answers", key=key, allocation_id=sources[size], cost_ms=self.costs[key])
            left -= size
        for name in sources.values():
            client.deallocate(allocation_id=name)
        client.call("memory.clear", {"device_id": "cpu", "clear_type": "cache"})
        self.host = HostCache(client)
        self._make_critical()
        if not first:
            self.client.model_optimize(device_id="cpu", target_pressure_level=PressureLevel.LOW, dry_run=True)
            self.client.optimize(device_id="cpu", optimization_level=OptimizationLevel.NORMAL, dry_run=True)

    def _make_critical(self) -> None:
        self.client.set_limits(device_id="cpu", reserve_bytes=0)
        device = self.client.get_status(device_id="cpu", refresh=True).devices[0]
        budget, free = device.budget_bytes, device.available_bytes
        assert budget is not None
        assert free is not None

        def used(headroom: int) -> float:
            return 100 * (1 - headroom / budget)

        limits = {"moderate": used(NEEDED), "high": used(NEEDED // 2), "critical": used(3 * HEADROOM)}
        data = {"device_id": "cpu", "reserve_bytes": free - HEADROOM, "thresholds": limits}
        self.client.call("memory.set_limits", data)
        level = self.client.get_pressure(device_id="cpu").pressure_level
        if level != "critical":
            raise RuntimeError(level)

    def is_low(self) -> bool:
        """Tell whether what the device shows now is below the lowest threshold."""
        device = self.client.get_status(device_id="cpu", refresh=True).devices[0]
        return (device.available_bytes or 0) >= NEEDED - NOISE

    def went(self, released: list[Any], unloaded: list[Any]) -> Went:
        """Return what went by these words."""
        claimed = sum(each["claimed_bytes"] for each in released) + sum(
            each["freed_bytes"] for each in unloaded
        )
        kept, after = set[str](), None
        while True:
            page = self.client.call("store.list", {"store": "answers", "after": after})
            kept |= {each["key"] for each in page["entries"]}
            if (after := page["next"]) is None:
                break
        cost = sum(cost for key, cost in self.costs.items() if key not in kept)
        cost += sum(
            each["claimed_bytes"] * HOST_MS_PER_MIB / MIB
            for each in released
            if each["consumer_id"] == "host"
        )
        return claimed, cost + sum(each["reload_ms"] for each in unloaded)


def models_alone(machine: Machine) -> Iterator[dict[str, Any]]:
    yield machine.client.call("memory.model_optimize", {"device_id": "cpu", "target_pressure_level": "low"})


def all_consumers(machine: Machine) -> Iterator[dict[str, Any]]:
    yield machine.client.call("memory.optimize", {"device_id": "cpu", "optimization_level": "normal"})


def _allocated(machine: Machine) -> dict[str, Any]:
    made = machine.client.call(
        "memory.allocate",
        {"size_bytes": NEEDED + NOISE, "device_id": "cpu", "make_room": True, "initialize": Initialize.NONE},
    )
    machine.client.deallocate(allocation_id=made["allocation_id"])
    machine.client.call("memory.clear", {"device_id": "cpu", "clear_type": "cache"})
    return made


def models_then_allocate(machine: Machine) -> Iterator[dict[str, Any]]:
    yield machine.client.call(
        "memory.model_optimize", {"device_id": "cpu", "min_memory_to_free_bytes": NEEDED + NOISE - HEADROOM}
    )
    yield _allocated(machine)


def allocate(machine: Machine) -> Iterator[dict[str, Any]]:
    yield _allocated(machine)


Way = Callable[[Machine], Iterator[dict[str, Any]]]
WAYS: dict[str, Way] = {
    "model_optimize, models alone": models_alone,
    "optimize, all consumers": all_consumers,
    "model_optimize, then allocate": models_then_allocate,
    "allocate {make_room}, all": allocate,
}


@contextmanager
def machine_with(folder: Path, *, first: bool) -> Iterator[tuple[Machine, psutil.Process]]:
    known = set(psutil.Process().children())
    with connect("--models", str(folder / "models.yaml"), "--pool-bytes", "0", command=_COMMAND) as client:
        (process,) = set(psutil.Process().children()) - known
        machine = Machine(client, first=first)
        try:
            yield machine, process
        finally:
            machine.host.close()


@contextmanager
def undisturbed(*pids: int) -> Iterator[None]:
    """Have these processes go before all others, where the system lets us: a busy machine makes a time of milliseconds any."""

    def have(policy: int, priority: int) -> None:
        for task in (int(each.name) for pid in pids for each in Path(f"/proc/{pid}/task").iterdir()):
            with suppress(PermissionError, ProcessLookupError):
                os.sched_setscheduler(task, policy, os.sched_param(priority))

    if sys.platform != "linux":
        yield
        return
    have(os.SCHED_FIFO, 1)
    try:
        yield
    finally:
        have(os.SCHED_OTHER, 0)


def measure(folder: Path, way: Way, *, first: bool) -> tuple[float, float, float, float, float]:
    """Return milliseconds until it is low, MiB claimed, shares of it by the system and by the replies, and cost."""
    with machine_with(folder, first=first) as (machine, process):

        def resident() -> int:
            return int(process.memory_info().rss + psutil.Process().memory_info().rss)

        with undisturbed(process.pid, os.getpid()):
            before, begun = resident(), time.perf_counter()
            replies = list(way(machine))
            while not machine.is_low():  # another process took some meanwhile
                if len(replies) > 4:
                    raise DisturbedError(replies)
                replies += way(machine)
            took = 1000 * (time.perf_counter() - begun)
        back = before - resident()
        released = [each for reply in replies for each in reply.get("released", ())]
        unloaded = [each for reply in replies for each in reply.get("models_unloaded", ())]
        claimed, cost = machine.went(released, unloaded)
        said = sum(each["returned_bytes"] or 0 for each in (*released, *unloaded))
        return took, claimed / MIB, back / claimed, said / claimed, cost


def _write_models(folder: Path) -> None:
    header = orjson.dumps({"w": {"dtype": "U8", "shape": [MODEL_BYTES], "data_offsets": [0, MODEL_BYTES]}})
    header += b" " * (-len(header) % 8)
    lines = ["models:"]
    for number in range(MODELS):
        content = len(header).to_bytes(8, "little") + header + os.urandom(MIB) * (MODEL_BYTES // MIB)
        (folder / f"m{number}.safetensors").write_bytes(content)
        lines.append(f"  - {{id: m{number}, path: m{number}.safetensors, device: cpu, placement: copy}}")
    (folder / "models.yaml").write_text("\n".join(lines))


def compare(rounds: int, *, first: bool) -> bool:
    """Print the medians of some rounds in pages of one kind. Returns whether the goals are met."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as name:
        _write_models(Path(name))
        for _ in range(rounds):
            for each, way in WAYS.items():
                rows[each].append(measure(Path(name), way, first=first))
    found = {
        each: [statistics.median(column) for column in zip(*of, strict=True)] for each, of in rows.items()
    }
    print(
        "| | ms until low | MiB claimed | back, by RSS | by the replies | rebuild, ms |\n|---|---:|---:|---:|---:|---:|"
    )
    for each, (took, claimed, back, said, cost) in found.items():
        print(f"| {each} | {took:.0f} | {claimed:.0f} | {back:.3f} | {said:.3f} | {cost:.0f} |")
    met = True
    for alone, together in (list(WAYS)[:2], list(WAYS)[2:]):
        time_ratio, cost_ratio = (found[together][each] / found[alone][each] for each in (0, 4))
        met &= time_ratio < 1 and found[together][2] >= BACK_TARGET
        print(
            f"{together}: {time_ratio:.2f} of the time of models alone (goal below 1), {cost_ratio:.2f} of the rebuilding;",
            end=" ",
        )
        print(f"{100 * found[together][2]:.1f} % back at the system (goal {100 * BACK_TARGET:.0f} %)")
    return met


def main() -> int:
    """Print medians; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", action="store_true", help="nothing was asked before")
    asked = parser.parse_args()
    print("Huge pages:")
    met = compare(asked.rounds, first=asked.first)
    if sys.platform == "linux":
        print("\nPages of 4 KiB:")
        _keep_from_huge_pages()  # and the workers that are started from here on
        met &= compare(asked.rounds, first=asked.first)
    print("All goals met." if met else "Not all goals met.")
    return 0 if met else 1


def _keep_from_huge_pages() -> None:
    libc, disable = ctypes.CDLL(None, use_errno=True), 41  # PR_SET_THP_DISABLE: a child has it, too
    if libc.prctl(disable, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the system does not take PR_SET_THP_DISABLE")


if __name__ == "__main__":
    raise SystemExit(main())
