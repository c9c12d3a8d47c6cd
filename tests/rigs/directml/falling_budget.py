"""Long use of a DirectML device whose budget falls and rises at any moment: restarts, copies, and what became of them.

What every block has to hold is known here, in another process than the worker's and than the device's.
"""

import hashlib
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Self

from tests.e2e.process import MIB, Worker, eventually
from tests.rigs.directml.rig import Rig

DML = {"device_id": "dml:0"}
HIGHEST_BYTES, LOWEST_BYTES = 2048 * MIB, 128 * MIB
_SIZES = (1, 4097, MIB, 3 * MIB + 5, 17 * MIB, 40 * MIB)
_LONGEST_HOLD_S = 2.0
_ENOUGH_BYTES = 900 * MIB


class FallingBudget:
    """One worker under random use. ``lost`` names each block that is gone or is not what it was."""

    def __init__(self, worker: Worker, rig: Rig, seed: int) -> None:
        self._worker = worker
        self._witness = rig.witness
        self._random = random.Random(seed)
        self._budgets = random.Random(seed + 1)
        self._ended = threading.Event()
        self._sources = [self._source(size) for size in _SIZES]
        # All mutable state: what each block has to hold, what was found to be lost, and what was done.
        self.blocks: dict[str, tuple[int, str]] = {}
        self.lost: list[str] = []
        self.done: Counter[str] = Counter()
        worker.call("worker.subscribe", {"events": ["device.lost", "device.contents_displaced"]})

    def __enter__(self) -> Self:
        # Which waits for the device to be found: until then nothing lives there that a budget could take.
        made = self._worker.call("memory.allocate", {"size_bytes": 1, **DML})
        self._worker.call("memory.deallocate", {"allocation_id": made["allocation_id"]})
        self._mover = threading.Thread(target=self._move_budget)
        self._mover.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._mover.join()

    def step(self) -> None:
        """Do one thing that an application would do; out of memory is an answer, a loss is none."""
        kinds = {
            self._put: 5,
            self._free: 3,
            self._read: 4,
            self._restart: 2,
            self._make_room: 1,
            self._clear: 1,
        }
        (kind,) = self._random.choices(tuple(kinds), tuple(kinds.values()))
        kind()

    def check_all(self) -> None:
        """Raise the budget, wait until everything is on the device again, and compare every byte of it."""
        self._ended.set()
        self._mover.join()
        self._witness.set_budget(0, HIGHEST_BYTES)
        # It is tried again after a minute at most, however often there was no room for it.
        eventually(lambda: self._device()["state_reason"] is None, "all is on the device", 90)
        for name in list(self.blocks):
            self._compare(name)
        for frame in self._worker.events("device.lost"):
            self.lost.append(f"device.lost: {frame['data']}")
        self.done["displaced"] = len(self._worker.events("device.contents_displaced"))

    # ---- what is done ----

    def _put(self) -> None:
        source, size, checksum = self._random.choice(self._sources)
        if sum(size for size, _ in self.blocks.values()) + size > _ENOUGH_BYTES:
            return self._free()
        data = {"source_allocation_id": source, "destination_device_id": "dml:0"}
        done = self._ask("memory.transfer", data)
        if done is not None:
            self.blocks[done["destination_allocation_id"]] = (size, checksum)
        return None

    def _free(self) -> None:
        if self.blocks:
            name = self._random.choice(sorted(self.blocks))
            del self.blocks[name]
            self._ask("memory.deallocate", {"allocation_id": name})

    def _read(self) -> None:
        if self.blocks:
            self._compare(self._random.choice(sorted(self.blocks)))

    def _restart(self) -> None:
        done = self._ask("memory.defragment", {**DML, "aggressive": True})
        self.done["restarted" if done and done["allocations_moved"] else "not restarted"] += 1

    def _make_room(self) -> None:
        size = self._random.choice((64, 200, 400)) * MIB
        done = self._ask(
            "memory.allocate", {"size_bytes": size, "make_room": True, "owner": "another", **DML}
        )
        if done is not None:
            self._ask("memory.deallocate", {"allocation_id": done["allocation_id"]})

    def _clear(self) -> None:
        self._ask("memory.clear", {**DML, "clear_type": "cache"})

    # ---- inside ----

    def _ask(self, action: str, data: dict[str, Any]) -> dict[str, Any] | None:
        self.done[action] += 1
        reply = self._worker.ask(action, data)
        if reply["success"]:
            return dict(reply["data"])
        self.done[f"{action}: {reply['error']['code']}"] += 1
        if reply["error"]["code"] != "out_of_memory":
            self.lost.append(f"{action} {data}: {reply['error']}")
        return None

    def _compare(self, name: str) -> None:
        size, checksum = self.blocks[name]
        data = {"source_allocation_id": name, "destination_device_id": "cpu", "verify": True}
        reply = self._worker.ask("memory.transfer", data)
        self.done["compared"] += 1
        if not reply["success"]:
            self.lost.append(f"{name} of {size} bytes can't be read: {reply['error']}")
            del self.blocks[name]
            return
        if reply["data"]["checksum"] != checksum:
            self.lost.append(f"{name} of {size} bytes is not as it was")
            del self.blocks[name]
        self._worker.call("memory.deallocate", {"allocation_id": reply["data"]["destination_allocation_id"]})

    def _device(self) -> dict[str, Any]:
        (device,) = self._worker.call("memory.get_status", DML)["devices"]
        return dict(device)

    def _source(self, size: int) -> tuple[str, int, str]:
        shared = {"size_bytes": size, "device_id": "cpu", "memory_type": "shared"}
        made = self._worker.call("memory.allocate", shared)
        content = self._random.randbytes(size)
        Path(made["shared_memory"]["path"]).write_bytes(content)
        return made["allocation_id"], size, f"sha256:{hashlib.sha256(content).hexdigest()}"

    def _move_budget(self) -> None:
        while not self._ended.wait(self._budgets.uniform(0.01, _LONGEST_HOLD_S)):
            low = self._budgets.randrange(LOWEST_BYTES, HIGHEST_BYTES)
            self._witness.set_budget(0, self._budgets.choice((low, HIGHEST_BYTES)))
