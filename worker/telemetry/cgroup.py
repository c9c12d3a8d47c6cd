"""The memory limits of the control groups that this process is in, versions 1 and 2.

What the kernel would give back before it refuses or ends anything counts as available, as the kernel itself
counts it for the whole machine in ``MemAvailable``: pages of files, those used lately (active) too, for under a
limit they go before any process does, and slab that can be reclaimed (version 2; version 1 does not say). What
lies in ``/dev/shm`` is no such page: it is counted with the processes' own memory, and stays.
"""

from pathlib import Path

from protocol.record import Record
from worker.telemetry.process_groups import ProcessGroups, text_of

_NO_LIMIT = 2**60
"""Version 1 says "none" with a number near 2**63, rounded to pages."""


class _Version(Record):
    controller: str
    """Its name in /proc/self/cgroup."""
    limits: tuple[tuple[str, str], ...]
    """The files of each limit and of what is used of it."""
    reclaimable: frozenset[str]
    """The lines of memory.stat whose bytes the kernel drops before it refuses anything; they count what lies below."""


_V1 = _Version(
    "memory",
    (
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),  # with what is swapped out
    ),
    frozenset({"total_inactive_file", "total_active_file"}),
)
_V2 = _Version(
    "",
    (
        ("memory.max", "memory.current"),
        ("memory.high", "memory.current"),  # above it the kernel slows the group down until it is below again
    ),
    frozenset({"inactive_file", "active_file", "slab_reclaimable"}),
)


class CgroupMemory:
    """This process's group and its ancestors, looked up at each reading: the tightest limit binds."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._groups = ProcessGroups(root)

    def read(self) -> tuple[int | None, int | None]:
        """Return the smallest limit and the smallest headroom left, each None where no group has a limit."""
        limits, headrooms = list[int](), list[int]()
        for version in (_V1, _V2):
            for folder in map(str, self._groups.folders(version.controller)):
                for limit_file, usage_file in version.limits:
                    limit = _number(f"{folder}/{limit_file}")
                    if limit is None or limit >= _NO_LIMIT:
                        continue
                    used = _number(f"{folder}/{usage_file}")
                    if used is not None:
                        limits.append(limit)
                        headrooms.append(max(0, limit - used + _reclaimable(folder, version)))
        return min(limits, default=None), min(headrooms, default=None)

    def is_hidden(self) -> bool:
        """Tell whether this process's group can't be looked at, so that a limit of it would not be seen."""
        return self._groups.is_hidden(_V1.controller, _V2.controller)


def _reclaimable(folder: str, version: _Version) -> int:
    lines = text_of(f"{folder}/memory.stat").splitlines()
    return sum(int(value) for name, value in map(str.split, lines) if name in version.reclaimable)


def _number(path: str) -> int | None:
    """Return a file's number; None where there is none, or a word for none."""
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None
