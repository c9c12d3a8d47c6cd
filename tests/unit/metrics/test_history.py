"""The history of actions, points in time and totals, each held to its rule."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.results import Expiration, TimelinePoint
from protocol.vocabulary import PressureLevel
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.metrics.history import History

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


class Record:
    """A history under a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.history = History(self.clock)

    def pass_ms(self, ms: float) -> None:
        """Let time pass."""
        self.clock.wait(ms / 1000, CancelToken(self.clock.now_ns))

    def act(self, action: str, duration_us: int = 10, *, failed: bool = False) -> None:
        """Note an action that ends now."""
        self.history.record_action(action, self.clock.now_ns(), duration_us * 1000, failed=failed)

    def count(self, range_ms: int) -> int:
        """Return how many actions the range has."""
        return sum(row.count for row in self.history.actions(range_ms))


def test_actions_are_counted() -> None:
    """Each action has its count, its errors and its quantiles."""
    record = Record()
    for duration in range(1, 101):
        record.act("a", duration, failed=duration > 98)
    record.act("b", 7)
    a, b = record.history.actions(MINUTE_MS)
    assert (a.action, a.count, a.errors) == ("a", 100, 2)
    assert (b.action, b.count, b.errors, b.p50_us, b.p99_us) == ("b", 1, 0, 7, 7)
    assert a.p50_us == 50
    assert a.p95_us is not None
    assert 95 <= a.p95_us <= 98


def test_actions_leave_the_range() -> None:
    """What is older than the range, by whole minutes or hours, is left out."""
    record = Record()
    record.act("a")
    assert record.count(MINUTE_MS) == record.count(HOUR_MS) == record.count(DAY_MS) == 1
    record.pass_ms(5 * MINUTE_MS)
    record.act("a")
    assert (record.count(MINUTE_MS), record.count(HOUR_MS), record.count(DAY_MS)) == (1, 2, 2)
    record.pass_ms(3 * HOUR_MS)
    assert (record.count(MINUTE_MS), record.count(HOUR_MS), record.count(DAY_MS)) == (0, 0, 2)
    record.act("a")
    assert (record.count(HOUR_MS), record.count(DAY_MS)) == (1, 3)
    record.pass_ms(3 * DAY_MS)
    record.act("a")
    assert (record.count(HOUR_MS), record.count(DAY_MS)) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 40 * MINUTE_MS), st.integers(1, 5)), max_size=60))
def test_hours_add_up(steps: list[tuple[int, int]]) -> None:
    """Over a range that reaches back to the start, and less than two days, every action is counted once."""
    record, total, passed = Record(), 0, 0
    for wait, count in steps:
        record.pass_ms(wait)
        passed += wait
        for _ in range(count):
            record.act("a")
        total += count
        if passed < 47 * HOUR_MS:
            assert record.count(48 * HOUR_MS) == total


def test_covered() -> None:
    """The record reaches back to the start, at most as far as asked."""
    record = Record()
    record.pass_ms(1500)
    assert (record.history.covered_ms(1000), record.history.covered_ms(10**6)) == (1000, 1500)


def point(allocated: int, device_id: str = "cpu") -> TimelinePoint:
    """Make a point."""
    return TimelinePoint(
        device_id=device_id,
        ms_ago=0,
        span_ms=0,
        allocated_bytes=allocated,
        peak_allocated_bytes=allocated,
        process_used_bytes=None,
        available_bytes=None,
        pressure_level=PressureLevel.LOW,
    )


def test_timeline() -> None:
    """The last minute by the second, the last hour by ten, the last day by the minute, oldest first."""
    record = Record()
    for number in range(3 * 60 * 4):  # four a second for three minutes
        record.history.record_memory(point(number))
        record.history.record_memory(point(0, "sim:0"))
        record.pass_ms(250)
    points = record.history.timeline(("cpu",), HOUR_MS)
    assert [each.ms_ago for each in points] == sorted((each.ms_ago for each in points), reverse=True)
    assert [(each.span_ms, each.allocated_bytes) for each in points][-70:] == [
        (1000, number) for number in range(443, 720, 4)
    ]
    tens = points[:-70]
    assert [(each.span_ms, each.allocated_bytes) for each in tens] == [
        (10_000, number) for number in range(39, 440, 40)
    ]
    assert len(record.history.timeline(("cpu",), 10_000)) == 10
    record.pass_ms(2 * DAY_MS)
    assert record.history.timeline(("cpu", "sim:0"), HOUR_MS) == ()


def test_what_was_only_there_in_between_shows_as_the_peak_at_every_resolution() -> None:
    """A second that ends as it began, and had much in between, says so; so do its ten seconds and minute."""
    record = Record()
    for number in range(2 * 60 * 60):
        record.history.record_memory(point(1))
        if number in {5, 2 * 60 * 60 - 30 * 60, 2 * 60 * 60 - 5}:
            record.history.record_memory(point(1000 + number))
            record.history.record_memory(point(2))
        record.pass_ms(1000)
    points = record.history.timeline(("cpu",), DAY_MS)
    peaks = [(each.span_ms, each.peak_allocated_bytes) for each in points if each.peak_allocated_bytes > 1]
    assert peaks == [(60_000, 1005), (10_000, 6400), (1000, 8195)]
    assert record.history.peak_bytes("cpu", record.clock.now_ns() - 10 * 10**9) == 8195
    assert record.history.peak_bytes("cpu", record.clock.now_ns() - 10**9) == 1
    assert record.history.peak_bytes("sim:0", 0) is None


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=200))
def test_no_point_is_told_twice_and_the_present_is_always_there(pauses_ms: list[int]) -> None:
    """Whatever the pauses, times ascend, and the newest point is the last that was entered."""
    record = Record()
    for number, pause in enumerate(pauses_ms):
        record.pass_ms(pause)
        record.history.record_memory(point(number))
    points = record.history.timeline(("cpu",), 10 * DAY_MS)
    ages = [each.ms_ago for each in points]
    assert all(older > newer for older, newer in pairwise(ages))
    assert (points[-1].ms_ago, points[-1].allocated_bytes) == (0, len(pauses_ms) - 1)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300))
def test_points_stand_for_all_the_time_since_the_first_without_a_gap(pauses_ms: list[int]) -> None:
    """However rarely it is looked when all is calm, each moment has one point, and it is what was so then."""
    record = Record()
    entered: list[tuple[int, int]] = []
    for number, pause in enumerate(pauses_ms):
        record.history.record_memory(point(number))
        entered.append((record.clock.now_ns() // 10**6, number))
        record.pass_ms(pause)
    now = record.clock.now_ns() // 10**6
    points = record.history.timeline(("cpu",), DAY_MS)
    starts = [(now - each.ms_ago) // 1000 * 1000 for each in points if each.span_ms < 10_000]
    fine = points[len(points) - len(starts) :]
    for start, following in pairwise(zip(starts, fine, strict=True)):
        assert start[0] + start[1].span_ms == following[0]
    assert sum(each.span_ms for each in points) >= now - entered[0][0]
    for start, each in zip(starts, fine, strict=True):
        within = [number for at, number in entered if at < start + each.span_ms]
        assert each.allocated_bytes == within[-1]


def test_what_nobody_looked_at_for_long_is_not_known() -> None:
    """A worker that stood still, with its machine, does not say that all was as before meanwhile."""
    record = Record()
    record.history.record_memory(point(1))
    record.pass_ms(4200)
    assert [each.span_ms for each in record.history.timeline(("cpu",), 100)] == [4200]
    record.pass_ms(HOUR_MS)
    assert record.history.timeline(("cpu",), MINUTE_MS) == ()
    record.history.record_memory(point(2))
    assert [each.span_ms for each in record.history.timeline(("cpu",), DAY_MS)] == [10_000, 1000]


def test_resolutions_meet_without_a_gap_or_an_overlap() -> None:
    """Where seconds are forgotten their ten seconds begin, and so with the minutes."""
    record = Record()
    record.pass_ms(3_700)
    for number in range(2 * 60 * 60):
        record.pass_ms(1000)
        record.history.record_memory(point(number))
    points = record.history.timeline(("cpu",), DAY_MS)
    now = record.clock.now_ns() // 10**6
    starts = [(now - each.ms_ago) // each.span_ms * each.span_ms for each in points]
    ends = [start + each.span_ms for start, each in zip(starts, points, strict=True)]
    assert ends[:-1] == starts[1:]
    assert {each.span_ms for each in points} == {1000, 10_000, 60_000}


def test_timeline_is_bounded() -> None:
    """Two days of seconds take the room of a minute, an hour and a day."""
    record = Record()
    for number in range(2 * 24 * 60 * 60 // 5):
        record.history.record_memory(point(number))
        record.pass_ms(5000)
    assert len(record.history.timeline(("cpu",), 10 * DAY_MS)) <= 70 + 366 + 1440


def test_totals_only_ever_grow() -> None:
    """Counts since the start are there when every minute and hour of then is forgotten."""
    record = Record()
    record.history.record_action("a", record.clock.now_ns(), 5_000_000, failed=True)
    record.pass_ms(5 * DAY_MS)
    for _ in range(3):
        record.pass_ms(HOUR_MS)
        record.history.record_action("a", record.clock.now_ns(), 64_000, failed=False)
    (total,) = record.history.totals()
    assert (total.action, total.errors, total.total_us) == ("a", 1, 5000 + 3 * 64)
    assert sum(total.counts.values()) == 4
    assert sum(row.count for row in record.history.actions(HOUR_MS)) < 4


def test_operations_have_their_memory_beside_their_times() -> None:
    """The highest peak, and what they grew by in sum; a request's action has neither."""
    record = Record()
    record.history.record_action("a", record.clock.now_ns(), 1000, failed=False)
    for peak, delta in ((100, 50), (300, -20), (None, None)):
        record.history.record_operation("embed", 2_000_000, peak, delta, failed=peak is None)
    plain, embed = record.history.actions(HOUR_MS)
    assert (plain.action, plain.peak_bytes, plain.delta_bytes) == ("a", None, None)
    assert (embed.action, embed.count, embed.errors) == ("operation:embed", 3, 1)
    assert (embed.peak_bytes, embed.delta_bytes) == (300, 30)


def test_names_of_operations_are_bounded() -> None:
    """Whoever puts a number into a name gets one row for all that are too many."""
    record = Record()
    for number in range(1000):
        record.history.record_operation(f"op-{number}", 1000, None, None, failed=False)
    rows = {row.action: row.count for row in record.history.actions(HOUR_MS)}
    assert len(rows) == 257
    assert rows["operation:other"] == 1000 - 256


def test_expirations() -> None:
    """Leases that ran out are told with their age, of the devices and range asked for."""
    record = Record()
    record.history.record_expiration(Expiration("alloc-1", "cpu", None, 0, 5, 5))
    record.pass_ms(1000)
    record.history.record_expiration(Expiration("alloc-2", "sim:0", None, 0, 5, None))
    assert [row.ms_ago for row in record.history.expirations(("cpu", "sim:0"), 5000)] == [1000, 0]
    assert [row.allocation_id for row in record.history.expirations(("cpu", "sim:0"), 999)] == ["alloc-2"]
    assert record.history.expirations((), 5000) == ()
