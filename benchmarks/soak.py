"""Hours of mixed load on one worker, as a host has it on a bad day: nothing may be lost, and nothing may grow.

Threads ask for everything at once, with deadlines and cancels, and for what has to be refused; a device's process is
killed now and then, and the host does not read for a while. At intervals all of that stops, everything is cleared,
and what is left is counted.

``python -m benchmarks.soak --minutes 120 [--threads N --seed N --every SECONDS]``. Exits with 1 where a promise was
broken.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fault_victim import two_models
from protocol.record import Record
from protocol.vocabulary import (
    ClearType,
    ErrorCode,
    MemoryType,
    OptimizationLevel,
    PressureLevel,
    TransferType,
)
from worker.client import CallOptions, Client, WorkerExitedError
from worker.client.workers import Workers
from worker.errors import WorkerError

PATIENT = CallOptions(deadline_ms=60_000)
HASTY = (CallOptions(deadline_ms=1), CallOptions(deadline_ms=20), CallOptions(deadline_ms=500))
KIB, MIB = 2**10, 2**20
MOST_HELD = 200
DEVICES = ("cpu", "sim:0", "sim:1")
SILENT_SECONDS = 3.0
"""How long the host does not read."""
MOST_GROWTH_BYTES = 16 * MIB
"""From the first half of the samples to the last: the histories that the worker keeps are full by then."""


class Sample(Record):
    """What was left when all was quiet."""

    seconds: float
    requests: int
    rss_bytes: int
    child_rss_bytes: int
    descriptors: int
    threads: int
    rows: int
    """Allocations and loaded models after everything was cleared, and bytes that devices count."""


class Soak:
    """A worker, and those who load it."""

    def __init__(self, folder: Path, threads: int, seed: int) -> None:
        self._shared = folder / "shared"
        self._shared.mkdir()
        self.deaths: list[str] = []
        self._workers = Workers(
            (
                "--simulated-device", "64MiB,bandwidth_bytes_per_second=256MiB", "--simulated-device", "8MiB",
                "--isolate", "simulated", "--models", str(two_models(folder)), "--shared-folder", str(self._shared),
                "--record", str(folder / "record.jsonl"), "--log-level", "error",
            ),
            None, restart=False, on_exit=self.deaths.append,
        )  # fmt: skip
        self.client = Client(self._workers, PATIENT)
        self.process = psutil.Process(self._workers.connection().pid)
        self._seed = seed
        self._held: list[str] = []
        self._running = threading.Event()
        self._ended = threading.Event()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        # What happened so far.
        self.outcomes: Counter[str] = Counter()
        self.broken: list[str] = []
        self.samples: list[Sample] = []
        self.kills = self.silences = 0
        self.started = time.monotonic()
        self._threads = [
            threading.Thread(target=self._load, args=(index,), daemon=True) for index in range(threads)
        ]
        for each in self._threads:
            each.start()

    # ---- the load ----

    def _load(self, index: int) -> None:
        chance = random.Random(f"{self._seed} {index}")
        while not self._ended.is_set():
            if not self._running.is_set():
                self._idle.release()
                self._running.wait()
                continue
            work, weight = chance.choice(self._works())
            for _ in range(weight):
                self._try(partial(work, chance))

    def _works(self) -> list[tuple[Callable[[random.Random], Any], int]]:
        return [
            (self._allocate, 8), (self._free, 6), (self._renew, 2), (self._transfer, 3), (self._models, 2),
            (self._questions, 4), (self._refused, 2), (self._rarely, 1),
        ]  # fmt: skip

    def _try(self, work: Callable[[], Any]) -> None:
        try:
            work()
            said = "ok"
        except WorkerError as error:
            said = error.code.value
            if said == ErrorCode.INTERNAL_ERROR or str(error).startswith("no answer"):
                self.broken.append(f"{said}: {error}")
        except WorkerExitedError as error:
            said = "exited"
            self.broken.append(f"exited: {error}")
            self._ended.set()
        except Exception as error:  # noqa: BLE001 - a client that fails is a finding, too
            said = "client"
            self.broken.append(f"{type(error).__name__}: {error}")
            self._ended.set()
        with self._lock:
            self.outcomes[said] += 1

    def _some(self, chance: random.Random) -> str:
        with self._lock:
            return chance.choice(self._held) if self._held else "alloc-0"

    def _allocate(self, chance: random.Random) -> None:
        size = int(2 ** chance.uniform(0, 22))
        lease = chance.choice((None, None, 1, 50, 5000, 86_400_000))
        kept = chance.choice(HASTY) if chance.random() < 0.2 else PATIENT
        made = self.client.allocate(
            size_bytes=size, device_id=chance.choice((*DEVICES, None)), lease_ms=lease, owner=f"o{chance.randrange(50)}",
            memory_type=chance.choice((MemoryType.DEVICE, MemoryType.DEVICE, MemoryType.SHARED)), persistent=chance.random() < 0.1, options=kept,
        )  # fmt: skip
        with self._lock:
            self._held.append(made.allocation_id)
            oldest = self._held.pop(0) if len(self._held) > MOST_HELD else None
        if oldest is not None:
            self.client.deallocate(allocation_id=oldest, force=True)

    def _free(self, chance: random.Random) -> None:
        name = self._some(chance)
        with self._lock, suppress(ValueError):
            self._held.remove(name)
        self.client.deallocate(allocation_id=name, force=True)

    def _renew(self, chance: random.Random) -> None:
        self.client.renew_lease(
            allocation_id=self._some(chance), lease_ms=chance.choice((1, 1000, 86_400_000))
        )

    def _transfer(self, chance: random.Random) -> None:
        source, device = self._some(chance), chance.choice(DEVICES)
        if chance.random() < 0.3:
            data = {"source_allocation_id": source, "destination_device_id": device}
            connection, request_id = self._workers.send("memory.transfer", data, PATIENT, _Nowhere())
            connection.cancel(request_id)
            return
        made = self.client.transfer(
            source_allocation_id=source, destination_device_id=device, wait=chance.random() < 0.7,
            transfer_type=chance.choice(tuple(TransferType)), verify=chance.random() < 0.2,
            options=chance.choice((*HASTY, PATIENT, PATIENT)),
        )  # fmt: skip
        self.client.get_transfer(transfer_id=made.transfer_id)

    def _models(self, chance: random.Random) -> None:
        model = chance.choice(("m0", "m1"))
        if chance.random() < 0.6:
            self.client.load_model(
                model_id=model, device_id=chance.choice(DEVICES), keep_alive_ms=chance.choice((1, 100, None))
            )
        else:
            self.client.unload_model(model_id=model)

    def _questions(self, chance: random.Random) -> None:
        client = self.client
        chance.choice((
            lambda: client.get_status(refresh=chance.random() < 0.2, include_allocations=True), client.get_usage,
            client.get_pressure, client.get_analytics, client.get_metrics, client.get_model_status,
            client.get_optimization_recommendations, lambda: client.get_allocations(limit=10), client.ping,
        ))()  # fmt: skip

    def _refused(self, chance: random.Random) -> None:
        client = self.client
        chance.choice((
            lambda: client.call("memory.no_such_action", {}), lambda: client.allocate(size_bytes=-1),
            lambda: client.allocate(size_bytes=2**62), lambda: client.deallocate(allocation_id="x" * 1000),
            lambda: client.call("memory.allocate", {"size_byte": 1}), lambda: client.load_model(model_id="none"),
            lambda: client.call("memory.get_status", {"device_id": "cuda:9"}),
            lambda: client.call("memory.allocate", {str(each): each for each in range(1000)}),
        ))()  # fmt: skip

    def _rarely(self, chance: random.Random) -> None:
        if chance.random() < 0.9:
            return
        client = self.client
        chance.choice((
            lambda: client.clear(clear_type=ClearType.CACHE), lambda: client.clear(device_id="sim:1", clear_type=ClearType.ALL, force=True),
            client.optimize, lambda: client.optimize(optimization_level=OptimizationLevel.AGGRESSIVE), client.defragment,
            lambda: client.defragment(aggressive=True), lambda: client.model_optimize(target_pressure_level=PressureLevel.LOW),
            lambda: client.events("memory.allocation_expired", "memory.device_lost").close(),
        ))()  # fmt: skip

    # ---- bad luck ----

    def kill(self, chance: random.Random) -> None:
        """End a device's process, as a driver that crashes does."""
        with suppress(psutil.Error, IndexError):
            chance.choice(self.process.children()).kill()
            self.kills += 1

    def keep_silent(self) -> None:
        """Do not read for a while: the client's reader waits in this receiver."""
        self.silences += 1
        with suppress(WorkerExitedError):
            self._workers.send("worker.ping", {}, PATIENT, _Silent())

    # ---- what is left ----

    def run(self, seconds: float) -> None:
        """Load it for so long."""
        chance = random.Random(self._seed)
        end = time.monotonic() + seconds
        self._running.set()
        while not self._ended.is_set() and (left := end - time.monotonic()) > 0:
            if not self._ended.wait(min(left, chance.uniform(2, 10))):
                chance.choice((lambda: self.kill(chance), self.keep_silent, lambda: None))()
        self._running.clear()
        for _ in self._threads:
            while not self._idle.acquire(timeout=1) and not self._ended.is_set():
                pass

    def count(self) -> Sample:
        """Clear everything, and count what is left of it."""
        with self._lock:
            self._held.clear()
        rows = self._cleared()
        end = time.monotonic() + 30
        while rows and time.monotonic() < end:  # a device's process that was killed comes back
            time.sleep(0.5)
            rows = self._cleared()
        process = self.process
        found = Sample(
            time.monotonic() - self.started, sum(self.outcomes.values()), process.memory_info().rss,
            sum(each.memory_info().rss for each in process.children()), process.num_fds(), process.num_threads(), rows,
        )  # fmt: skip
        if rows:
            self.broken.append(f"{rows} rows left")
        self.samples.append(found)
        return found

    def _cleared(self) -> int:
        client = self.client
        for device in DEVICES:
            with suppress(WorkerError):
                client.clear(device_id=device, clear_type=ClearType.ALL, force=True)
        status = client.get_status(refresh=True)
        models = sum(each.state in {"loaded", "offloaded"} for each in client.get_model_status().models)
        lost = sum(each.state != "available" for each in status.devices)
        return (
            len(client.get_allocations().allocations) + models + lost
            + sum(each.allocated_bytes > 0 or each.model_bytes > 0 for each in status.devices)
        )  # fmt: skip

    def end(self) -> None:
        """End the worker, and see that nothing is left of it."""
        self._ended.set()
        self._running.set()
        children = self.process.children()
        self.client.close()
        if self.deaths:
            self.broken.append(f"exited: {self.deaths}")
        if list(self._shared.iterdir()):
            self.broken.append("files left")
        if psutil.wait_procs(children, 10)[1]:
            self.broken.append("processes left")

    def grown(self) -> list[str]:
        """Say what of the last sample is more than what came before it."""
        half = self.samples[len(self.samples) // 4 : len(self.samples) // 2 + 1]
        last, found = self.samples[-1], []
        for name, more in (("descriptors", 2), ("threads", 2), ("rss_bytes", MOST_GROWTH_BYTES)):
            before, now = max(getattr(each, name) for each in half), getattr(last, name)
            if now > before + more:
                found.append(f"{name} grew from {before} to {now}")
        return found


class _Nowhere:
    """Takes what comes of a call that is cancelled at once."""

    def progress(self, completed: int, total: int) -> None: ...
    def reply(self, message: dict[str, Any]) -> None: ...
    def lost(self, error: WorkerExitedError) -> None: ...


class _Silent(_Nowhere):
    def reply(self, message: dict[str, Any]) -> None:  # noqa: ARG002 - every receiver is given the reply
        time.sleep(SILENT_SECONDS)


def main() -> int:
    """Run it, and print what came of it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120, help="how long (default 120)")
    parser.add_argument("--threads", type=int, default=4, help="callers at once (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--every", type=float, metavar="S", help="seconds between counts (default a twelfth)")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    every = seconds / 12 if arguments.every is None else arguments.every
    print("   minutes   requests   RSS MiB  children MiB  descriptors  threads  rows left")
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.threads, arguments.seed)
        try:
            while time.monotonic() - soak.started < seconds and not soak.broken:
                soak.run(every)
                at = soak.count()
                print(f"{at.seconds / 60:10.1f} {at.requests:10,} {at.rss_bytes / MIB:9.1f} {at.child_rss_bytes / MIB:13.1f}"
                      f" {at.descriptors:12} {at.threads:8} {at.rows:10}", flush=True)  # fmt: skip
        finally:
            soak.end()
    print(", ".join(f"{count:,} {name}" for name, count in soak.outcomes.most_common()))
    print(f"{soak.kills} device processes killed, {soak.silences} silences of {SILENT_SECONDS:g} s")
    wrong = [*soak.broken, *soak.grown()]
    print("\n".join(f"BROKEN {each}" for each in wrong) or "nothing lost, nothing left, nothing grew")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
