"""What looks like a leak: owners, the process and lines of Python whose low-water mark keeps rising."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from protocol.record import Record
from protocol.results import SuspectedLeak
from protocol.vocabulary import LeakKind
from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.records import HOST, Allocation
from worker.core.sure_lock import SureLock
from worker.manager.manager_memory import MemoryManager
from worker.policy.growth import Growth, growth
from worker.policy.holders import HeldConsumer, unexplained_bytes
from worker.watch.leaking_operations import OperationGrowth
from worker.watch.low_water import LowWaterMarks

SAMPLE_NS = 2 * NS_PER_S
"""Sampled at most this often, five times in a window: a low-water mark is what it came down to between two samples."""

PYTHON_NS = 60 * NS_PER_S
"""Python's objects are counted this often: it stops the worker for as long as that takes."""

_SUBJECTS_MAX = 512
"""The largest are watched."""

_MIN_COUNT = 8
_MIN_SPAN_MS = 60_000
_UNFREED_CONFIDENCE = 0.8
"""At least 8 live allocations made over at least a minute, and none of their owner and purpose ever freed: that
is how a leak begins, and how a program does that keeps what it has."""


class Subject(Record):
    """What is watched."""

    device_id: str
    kind: LeakKind
    owner: str | None = None
    purpose: str | None = None


class LeakWatch:
    """Samples sizes, and suspects what rises. Changes nothing."""

    def __init__(
        self,
        manager: MemoryManager,
        clock: Clock,
        held_here: Callable[[str], Iterable[HeldConsumer]],
        operations_grown: Callable[[], Mapping[str, int]],
        python_lines: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """``held_here`` tells what consumers in this process hold of a device, which is explained.

        ``operations_grown`` tells what the process had grown by at the ends of each operation, in sum.
        ``python_lines`` tells the bytes of Python objects by the line that made them; None where not traced.
        """
        self._manager = manager
        self._held_here = held_here
        self._operations_grown = operations_grown
        self._python_lines = python_lines
        self._clock = clock
        self._lock = SureLock()
        # All mutable state.
        self._marks: dict[Subject, LowWaterMarks] = {}
        self._operations = OperationGrowth()
        self._sizes: dict[Subject, int] = {}
        self._began: dict[Subject, int] = {}
        self._sampled_ns: int | None = None
        self._python_ns: int | None = None

    def sample(self, device_ids: tuple[str, ...]) -> bool:
        """Add what everything takes now, if it is time to. Returns whether it was."""
        now = self._clock.now_ns()
        if self._sampled_ns is not None and now - self._sampled_ns < SAMPLE_NS:
            return False
        self._sampled_ns = now
        sizes: dict[Subject, int] = {}
        for device_id in device_ids:
            for (owner, purpose), (size, _) in self._manager.usage.unleased(device_id).items():
                sizes[Subject(device_id, LeakKind.ALLOCATIONS, owner, purpose)] = size
            unexplained = self._unexplained(device_id)
            if unexplained is not None:
                sizes[Subject(device_id, LeakKind.PROCESS)] = unexplained
        grown = self._operations_grown()
        with self._lock:
            self._operations.add(now, grown)
            due = self._python_ns is None or now - self._python_ns >= PYTHON_NS
            if due and self._python_lines is not None:
                self._python_ns = now
                for line, size in self._python_lines().items():
                    sizes[Subject(HOST, LeakKind.PYTHON, line)] = size
            else:
                sizes |= {each: size for each, size in self._sizes.items() if each.kind is LeakKind.PYTHON}
            self._add(sizes, now)
        return True

    def suspects(self, device_ids: tuple[str, ...]) -> tuple[SuspectedLeak, ...]:
        """Return what is suspected, the largest first."""
        now = self._clock.now_ns()
        found: dict[Subject, SuspectedLeak] = {}
        with self._lock:
            for subject, marks in self._marks.items():
                risen = growth(marks.closed())
                if risen is not None and subject.device_id in device_ids:
                    found[subject] = self._risen(subject, risen, now)
        for device_id in device_ids:
            for leak in self._unfreed(device_id, now):
                subject = Subject(device_id, LeakKind.ALLOCATIONS, leak.owner, leak.purpose)
                found.setdefault(subject, leak)
        return tuple(sorted(found.values(), key=lambda leak: -leak.allocated_bytes))

    # ---- inside ----

    def _unexplained(self, device_id: str) -> int | None:
        """Return what the process takes beyond what is explained; None where the readings are not exact."""
        unattributed = self._manager.pressure.unattributed_bytes(device_id)
        return unexplained_bytes(unattributed, self._held_here(device_id))

    def _add(self, sizes: dict[Subject, int], now: int) -> None:
        if len(sizes) > _SUBJECTS_MAX:
            largest = sorted(sizes, key=lambda subject: -sizes[subject])[:_SUBJECTS_MAX]
            sizes = {subject: sizes[subject] for subject in largest}
        for subject in [each for each in self._marks if each not in sizes]:
            if subject.kind is LeakKind.PROCESS:
                continue  # only not measured this time
            del self._marks[subject], self._began[subject]
        for subject, size in sizes.items():
            self._marks.setdefault(subject, LowWaterMarks()).add(now, size)
            self._began.setdefault(subject, now)
        self._sizes = sizes

    def _risen(self, subject: Subject, risen: Growth, now: int) -> SuspectedLeak:
        size, owner = self._sizes.get(subject, 0), subject.owner
        count, age_ns = None, now - self._began[subject]
        if subject.kind is LeakKind.ALLOCATIONS:
            live = self._manager.usage.unleased(subject.device_id).get(
                (subject.owner, subject.purpose), (0, 0)
            )
            size, count = live
        what = {
            LeakKind.ALLOCATIONS: "what this owner holds",
            LeakKind.PROCESS: "what the process takes and nothing explains",
            LeakKind.PYTHON: "what was made at this line",
        }[subject.kind]
        evidence = (
            f"{what} came down to a higher low-water mark again and again: {risen.grown_bytes} bytes in"
            f" {risen.span_ns // NS_PER_MS} ms, {risen.windows} windows"
        )
        if subject.kind is LeakKind.PROCESS and subject.device_id == HOST:
            operation = self._operations.behind(risen)
            if operation is not None:
                owner = operation.name
                evidence += f"; {owner} had grown by {operation.grown_bytes} bytes at its ends, in sum"
        return SuspectedLeak(
            subject.device_id, subject.kind, owner, subject.purpose, count, size,
            age_ns // NS_PER_MS, risen.bytes_per_second, risen.confidence, evidence,
        )  # fmt: skip

    def _unfreed(self, device_id: str, now: int) -> list[SuspectedLeak]:
        """Suspect owners whose temporary allocations were made over time and never freed."""
        unleased = self._manager.usage.unleased(device_id)
        if not any(count >= _MIN_COUNT for _, count in unleased.values()):
            return []
        groups: dict[tuple[str | None, str | None], list[Allocation]] = defaultdict(list)
        for allocation in self._manager.allocations.all(device_id):
            request = allocation.request
            pair = (request.owner, request.purpose)
            temporary = not request.persistent and allocation.expires_ns is None and not allocation.external
            if temporary and unleased.get(pair, (0, 0))[1] >= _MIN_COUNT:
                groups[pair].append(allocation)
        found = []
        for (owner, purpose), members in groups.items():
            if not self._manager.usage.never_freed(device_id, owner, purpose):
                continue
            oldest = min(member.created_ns for member in members)
            span_ms = (max(member.created_ns for member in members) - oldest) // NS_PER_MS
            if len(members) < _MIN_COUNT or span_ms < _MIN_SPAN_MS:
                continue
            size = sum(member.size_bytes for member in members)
            evidence = f"{len(members)} allocations over {span_ms} ms, none of them freed"
            rate = round(1000 * size / span_ms, 3)
            leak = SuspectedLeak(
                device_id, LeakKind.ALLOCATIONS, owner, purpose, len(members), size,
                (now - oldest) // NS_PER_MS, rate, _UNFREED_CONFIDENCE, evidence,
            )  # fmt: skip
            found.append(leak)
        return found
