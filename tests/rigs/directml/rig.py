"""A simulated machine: what a process is started with to run on it, and what its driver sees."""

import os
import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from protocol.record import Record

if sys.platform != "win32":
    import fcntl

GIB = 2**30
MAX_ADAPTERS = 8
NO_LIMIT = 2**64 - 1


class Factory(IntEnum):
    """What comes of creating DXCore's factory, which every probe begins with."""

    WORKS = 0
    FAILS = 1
    CRASHES = 2
    HANGS = 3


class Holding(Record):
    """What one process holds on one adapter; staging is in system memory. Layout: books.h."""

    heap_bytes: int
    heap_count: int
    committed_bytes: int
    committed_count: int
    staging_bytes: int
    staging_count: int
    peak_bytes: int
    """The most that heaps and committed resources came to together."""
    refused_count: int
    """Requests past the physical limit."""
    asked_count: int
    """Questions for the budget, of the adapter's own memory."""

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory."""
        return self.heap_bytes + self.committed_bytes


HOLDING = struct.Struct("<9Q")
assert len(Holding.__dataclass_fields__) * 8 == HOLDING.size


class Witness:
    """The books of the simulated driver, and switches that act on processes that run already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def holding(self, pid: int, adapter: int = 0) -> Holding:
        """Return what a process holds or, if it is dead, held at its end."""
        content = (self.folder / str(pid)).read_bytes()
        return Holding(*HOLDING.unpack_from(content, adapter * HOLDING.size))

    def living(self, adapter: int = 0) -> dict[int, Holding]:
        """Return what each living process that ever called the driver holds, by its id."""
        pids = [int(file.name) for file in self.folder.iterdir() if file.name.isdecimal()]
        return {pid: self.holding(pid, adapter) for pid in pids if self._is_alive(pid)}

    def device_bytes(self, adapter: int = 0) -> int:
        """Return the device memory that all living processes hold."""
        return sum(one.device_bytes for one in self.living(adapter).values())

    def set_budget(self, adapter: int, budget_bytes: int | None) -> None:
        """Change what DXCore answers from now on; None goes back to how processes were started."""
        self._switch(adapter, budget_bytes or 0)

    def set_device_removed(self, adapter: int, *, removed: bool = True) -> None:
        """Lose the device: each later call fails as after a driver reset."""
        self._switch(MAX_ADAPTERS + adapter, int(removed))

    def set_device_hung(self, adapter: int, *, hung: bool = True) -> None:
        """Let each later call that works on the device wait until this is taken back."""
        self._switch(2 * MAX_ADAPTERS + adapter, int(hung))

    def _switch(self, number: int, value: int) -> None:
        """Write into the file that running processes have mapped: they see the same page."""
        descriptor = os.open(self.folder / "switches", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, struct.pack("<Q", value), number * 8)
        finally:
            os.close(descriptor)

    def _is_alive(self, pid: int) -> bool:
        """Whether the process still has its file locked: the system unlocks it when the process ends."""
        with (self.folder / str(pid)).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


class Rig:
    """One simulated machine, shared by all processes that are started with its environment."""

    def __init__(self, libraries: Path, folder: Path) -> None:
        self._libraries = libraries
        folder.mkdir(parents=True, exist_ok=True)
        self.witness = Witness(folder)

    def environment(
        self,
        *,
        adapters: int = 1,
        npus: int = 0,
        budget_bytes: int | Sequence[int] = 8 * GIB,
        physical_limit_bytes: int | Sequence[int] = NO_LIMIT,
        hardware: bool | Sequence[bool] = True,
        integrated: bool | Sequence[bool] = False,
        tiled: bool = True,
        float64: bool = True,
        usage_states: bool = True,
        notifies: bool = True,
        demotes: bool = False,
        factory: Factory = Factory.WORKS,
        log: bool = False,
    ) -> dict[str, str]:
        """Return the variables to add to a child's environment. They count from its first call on.

        ``npus`` are listed after the adapters, for machine learning alone. A sequence has a value for each adapter, the last for all that follow. ``budget_bytes`` is what DXCore
        grants, ``physical_limit_bytes`` is where the driver refuses, whichever processes hold the rest.
        Without ``tiled`` the hardware has no tiled resources; without ``usage_states`` DXCore knows only
        the calling process's memory, as on older Windows; where it ``notifies``, it tells of each budget that changes. With ``demotes`` what a process holds beyond its budget
        lies in system memory, and DXCore says so. ``log`` puts the driver's calls on stderr.
        """
        before = os.environ.get("LD_LIBRARY_PATH")
        return {
            "LD_LIBRARY_PATH": f"{self._libraries}:{before}" if before else str(self._libraries),
            "RIG_WITNESS": str(self.witness.folder),
            "RIG_ADAPTERS": str(adapters),
            "RIG_NPUS": str(npus),
            "RIG_BUDGET_BYTES": _per_adapter(budget_bytes),
            "RIG_PHYSICAL_LIMIT_BYTES": _per_adapter(physical_limit_bytes),
            "RIG_HARDWARE": _per_adapter(hardware),
            "RIG_INTEGRATED": _per_adapter(integrated),
            "RIG_TILED": str(int(tiled)),
            "RIG_FLOAT64": str(int(float64)),
            "RIG_USAGE_STATES": str(int(usage_states)),
            "RIG_NOTIFIES": str(int(notifies)),
            "RIG_DEMOTES": str(int(demotes)),
            "RIG_FACTORY": str(int(factory)),
            "RIG_LOG": str(int(log)),
        }


def _per_adapter(values: int | Sequence[int]) -> str:
    return ",".join(str(int(value)) for value in ([values] if isinstance(values, int) else values))
