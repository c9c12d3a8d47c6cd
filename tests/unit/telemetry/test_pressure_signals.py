"""Where signs of pressure come from: stalls, swap, limits of the process, and what Windows says."""

from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import Source
from worker.core.records import SignalKind
from worker.telemetry.commit import commitments
from worker.telemetry.low_memory import LOW, NEITHER, PLENTY, LowMemoryNotification
from worker.telemetry.stalls import MemoryStalls
from worker.telemetry.system import SystemMemory

STALLS = (
    "some avg10={} avg60=0.10 avg300=0.01 total=123456\nfull avg10={} avg60=0.00 avg300=0.00 total=4711\n"
)
MOUNT_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def machine(root: Path, some: str, full: str) -> None:
    """Say how much the machine stalls."""
    (root / "proc/pressure").mkdir(parents=True)
    (root / "proc/pressure/memory").write_text(STALLS.format(some, full))


def test_the_machines_stalls(tmp_path: Path) -> None:
    """Both lines are signals; the file is read again each time."""
    machine(tmp_path, "12.34", "5.60")
    stalls = MemoryStalls(tmp_path)
    some, full = stalls.signals()
    assert (some.name, some.value, some.source) == ("stall_some_avg10_percentage", 12.34, Source.OS)
    assert (full.value, full.kind) == (5.6, SignalKind.ALL_STALLED)
    (tmp_path / "proc/pressure/memory").write_text(STALLS.format("99.00", "0.00"))
    assert [each.value for each in stalls.signals()] == [99.0, 0.0]
    (tmp_path / "proc/pressure/memory").unlink()
    assert stalls.signals() == ()


def test_the_own_groups_stalls_come_first(tmp_path: Path) -> None:
    """In a control group of version 2 what counts is how its own processes wait, not all of the machine's."""
    machine(tmp_path, "90.00", "90.00")
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (tmp_path / "proc/self/mountinfo").write_text(MOUNT_V2)
    group = tmp_path / "sys/fs/cgroup/a/b"
    group.mkdir(parents=True)
    stalls = MemoryStalls(tmp_path)
    assert [each.value for each in stalls.signals()] == [90.0, 90.0]
    (group / "memory.pressure").write_text(STALLS.format("1.00", "0.50"))
    found = stalls.signals()
    assert [(each.value, each.source) for each in found] == [(1.0, Source.CGROUP), (0.5, Source.CGROUP)]
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")  # moved: the file that is there now counts
    (group.parent / "memory.pressure").write_text(STALLS.format("7.00", "3.00"))
    assert [each.value for each in stalls.signals()] == [7.0, 3.0]


@pytest.mark.parametrize("text", [None, "", "some\n", "other avg60=1\n"])
def test_no_stalls(tmp_path: Path, text: str | None) -> None:
    """A kernel without them gives none, and no zeros."""
    if text is not None:
        (tmp_path / "proc/pressure").mkdir(parents=True)
        (tmp_path / "proc/pressure/memory").write_text(text)
    assert MemoryStalls(tmp_path).signals() == ()


class Kernel32:
    """What Windows does with the notifications: two handles, each signalled or not."""

    def __init__(self, low: int, high: int, *, handles: bool = True, answers: bool = True) -> None:
        self.states = {11: low, 12: high}
        self.handles, self.answers = handles, answers
        self.closed: list[int] = []

    def CreateMemoryResourceNotification(self, kind: int) -> int:
        return 11 + kind if self.handles else 0

    def QueryMemoryResourceNotification(self, handle: int, state: Any) -> int:
        state._obj.value = self.states[handle]
        return int(self.answers)

    def CloseHandle(self, handle: int) -> None:
        self.closed.append(handle)


@pytest.mark.parametrize(("low", "high", "word"), [(0, 1, PLENTY), (0, 0, NEITHER), (1, 0, LOW), (1, 1, LOW)])
def test_what_windows_says(low: int, high: int, word: int) -> None:
    """Low is low, plenty is plenty, and between the two is neither."""
    kernel = Kernel32(low, high)
    notification = LowMemoryNotification(kernel)
    (signal,) = notification.signals()
    assert (signal.value, signal.kind) == (float(word), SignalKind.NOTIFIED)
    notification.close()
    assert kernel.closed == [11, 12]
    assert notification.signals() == ()


def test_where_windows_says_nothing() -> None:
    """Without handles, or without an answer, nothing is claimed."""
    assert LowMemoryNotification(Kernel32(1, 0, handles=False)).signals() == ()
    assert LowMemoryNotification(Kernel32(1, 0, answers=False)).signals() == ()


def test_promises(tmp_path: Path) -> None:
    """Strict overcommit is a limit of its own, with its room."""
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "sys/vm/overcommit_memory").write_text("2\n")
    (tmp_path / "meminfo").write_text("CommitLimit: 1000 kB\nCommitted_AS: 250 kB\n")
    (promise,) = (each for each in commitments(tmp_path) if each.name == "commit")
    assert (promise.limit_bytes, promise.headroom_bytes) == (1000 * 1024, 750 * 1024)


def test_this_machine() -> None:
    """The live machine names at least how full it is, and no signal is off its scale."""
    signals = {signal.name: signal for signal in SystemMemory().read().signals}
    assert 0 < signals["machine_used_percentage"].value < 100
    assert all(0 <= signal.value <= 100 for signal in signals.values())
