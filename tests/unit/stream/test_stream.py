"""The parts of the stream, each by itself: lines, lanes, replays, alarms, events, tokens and clocks."""

import threading
import time
import tracemalloc
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vocabulary import REPLAY_CAPACITY, Source
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock, SystemClock
from worker.core.errors import (
    CancelledError,
    DeadlineExceededError,
    DuplicateRequestIdError,
    InvalidJsonError,
    InvalidRequestError,
    WorkerError,
)
from worker.core.events import BudgetChanged, DeviceLost, PressureChanged
from worker.instructor.events import wire_event
from worker.stream.alarm import Alarm
from worker.stream.event_channel import INTERVAL_NS, EventChannel
from worker.stream.frames import LineSplitter, Oversize, find_request_id, read_request, success_frame
from worker.stream.lanes import Job, Lanes
from worker.stream.replay import Replay, body_of
from worker.stream.work import Claim, Work

PATIENCE_SECONDS = 5.0

# ---- lines ----

MAX_FRAME = 600
LINES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.integers(MAX_FRAME - 3, MAX_FRAME + 3).map(lambda n: b"x" * n),
        st.integers(MAX_FRAME - 3, MAX_FRAME + 3).map(lambda n: b"y" * n + b"\r"),
        st.integers(0, 3 * MAX_FRAME).map(lambda n: b"z" * n),
    ),
    max_size=6,
).map(b"\n".join)


def split(chunks: list[bytes]) -> list[bytes | Oversize]:
    """Cut chunks into lines."""
    splitter = LineSplitter(MAX_FRAME)
    return [line for chunk in chunks if chunk for line in splitter.feed(chunk)] + list(splitter.close())


@given(data=LINES, cuts=st.lists(st.integers(0, 5 * MAX_FRAME), max_size=20))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    """How a stream is cut into chunks makes no difference to its lines, the oversize ones' heads included."""
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    whole = split([data])
    assert split([data[start:end] for start, end in pairwise(edges)]) == whole
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert len(whole) == len(expected)
    for found, line in zip(whole, expected, strict=True):
        if isinstance(found, Oversize):
            assert len(line.removesuffix(b"\r")) > MAX_FRAME
            assert line.startswith(found.head)
        else:
            assert found == line
            assert len(line.removesuffix(b"\r")) <= MAX_FRAME


@given(data=st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_line_is_a_request_or_refused(data: bytes) -> None:
    """A line is a request, blank, or refused with a code; its id is looked for without failing."""
    try:
        read_request(data)
    except WorkerError:
        found = find_request_id(data)
        assert found is None or 0 < len(found) <= 128


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[]", InvalidJsonError),
        (b'"x"', InvalidJsonError),
        (b"1", InvalidJsonError),
        (b"true", InvalidJsonError),
        (b"null", InvalidJsonError),
        (b"{", InvalidJsonError),
        (b"\xff", InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": {"x": NaN}}', InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": {"x": Infinity}}', InvalidJsonError),
        (b'{"request_id": "\\ud800", "action": "a"}', InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": ' + b'{"x":' * 70 + b"1" + b"}" * 71, InvalidJsonError),
        (b"[" * 100_000, InvalidJsonError),
        (b'{"request_id": "1"}', InvalidRequestError),
        (b'{"action": "a"}', InvalidRequestError),
        (b'{"request_id": "", "action": "a"}', InvalidRequestError),
        (b'{"request_id": 1, "action": "a"}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "data": []}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "data": null}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": -1}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": 1.0}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": true}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"progress": 1}}', InvalidRequestError),
        (b'{"request_id": "' + b"x" * 129 + b'", "action": "a"}', InvalidRequestError),
        (b'{"request_id": "1", "action": "' + b"x" * 257 + b'"}', InvalidRequestError),
    ],
)
def test_lines_that_are_refused(line: bytes, error: type[Exception]) -> None:
    """What is no JSON object is invalid JSON; an object that is no request is an invalid request."""
    with pytest.raises(error):
        read_request(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"request_id": "1", "action": "a"}',
        b'{"request_id": "1", "action": "a", "data": {}, "meta": {}, "future": [1]}\r',
        b'\xef\xbb\xbf{"request_id": "1", "action": "a", "meta": {"future": {}}}',
        b' \t{"action": "a", "request_id": "\\u0031"} ',
        b'{"request_id": "1", "action": "a", "meta": null}',
        b'{"request_id": "1", "action": "a", "data": ' + b'{"x":' * 62 + b"{}" + b"}" * 63,
    ],
)
def test_lines_that_are_read(line: bytes) -> None:
    """CRLF, a BOM, space, unknown keys and 64 levels are all right."""
    request = read_request(line)
    assert request is not None
    assert (request.request_id, request.action) == ("1", "a")


@pytest.mark.parametrize("line", [b"", b"\r", b"  \t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r"])
def test_blank_lines(line: bytes) -> None:
    """A blank line is none."""
    assert read_request(line) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"request_id": "abc", "action": ', "abc"),
        (b'{"request_id": "a\\"b", ', 'a"b'),
        (b'\xef\xbb\xbf {"request_id":"abc"', "abc"),
        (b'{"action": "x", "request_id": "abc"}', "abc"),
        (b'{"action": "x", "request_id": 5}', None),
        (b'{"request_id": "\\ud800"}', None),
        (b'{"request_id": ""}', None),
        (b'{"request_id": "' + b"x" * 129 + b'"}', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_id_of_an_unreadable_line(line: bytes, found: str | None) -> None:
    """The id is told wherever it can be read, and only then."""
    assert find_request_id(line) == found


def test_a_line_that_is_given_up_for_memory() -> None:
    """Where there is no memory for a line, the rest of it is discarded, its head tells whose it was, and the next is read."""
    splitter = LineSplitter(MAX_FRAME)
    assert splitter.feed(b'{"request_id": "x", ') == []
    splitter.give_up()
    assert splitter.feed(b"more") == []
    found = splitter.feed(b" and more\nnext\n")
    assert found == [Oversize(b'{"request_id": "x", ', no_memory=True), b"next"]


# ---- lanes ----

CLAIMS = st.lists(st.builds(Claim, st.sampled_from("abcd"), st.booleans()), max_size=3).map(tuple)


def conflict(one: tuple[Claim, ...], other: tuple[Claim, ...]) -> bool:
    """Say again, in the test's own words, when two must not run at once."""
    return any(a.key == b.key and (a.exclusive or b.exclusive) for a in one for b in other)


class Started:
    """Threads that note which jobs they were given, and do nothing."""

    def __init__(self, started: list[int]) -> None:
        self.started = started

    def put(self, job: Job) -> None:
        """Note a job."""
        self.started.append(int(job.request_id))

    def discard(self, job: Job) -> None:
        """Do nothing."""


@given(claims=st.lists(CLAIMS, max_size=10), data=st.data())
def test_conflicting_work_is_in_arrival_order(claims: list[tuple[Claim, ...]], data: st.DataObject) -> None:
    """A job runs exactly when no earlier unfinished job conflicts with it, whoever finishes or gives up first."""
    lanes, started = Lanes(), list[int]()
    threads = Started(started)
    jobs = [
        Job(
            str(number),
            Work(action="x", run=lambda _: None, claims=each, quick=False),
            CancelToken(FixedClock().now_ns),
            lambda _: None,
            threads,
            lambda _: None,
        )
        for number, each in enumerate(claims)
    ]
    unfinished: list[int] = []

    def check() -> None:
        for place, number in enumerate(unfinished):
            blocked = any(conflict(claims[earlier], claims[number]) for earlier in unfinished[:place])
            assert jobs[number].running == (not blocked)

    for number, job in enumerate(jobs):
        free = not any(conflict(claims[earlier], claims[number]) for earlier in unfinished)
        assert lanes.free(claims[number]) == free
        unfinished.append(number)
        assert lanes.admit(job) == free
        check()
    while unfinished:
        number = data.draw(st.sampled_from(unfinished))
        if jobs[number].running and data.draw(st.booleans()):
            assert lanes.begin(jobs[number])
            assert not lanes.withdraw(jobs[number])
            lanes.finish(jobs[number])
        else:  # it waits for others, or has no thread yet
            assert lanes.withdraw(jobs[number])
            assert not lanes.begin(jobs[number])
        unfinished.remove(number)
        check()
    assert lanes.jobs() == ()
    assert len(started) == len(set(started))
    for later, number in enumerate(started):
        for earlier in started[later + 1 :]:
            if earlier < number:
                assert not conflict(claims[earlier], claims[number])


# ---- replay ----


def test_replay_is_bounded() -> None:
    """The last 1,024 answers are kept, and less where they are large."""
    replay = Replay()
    for number in range(REPLAY_CAPACITY + 10):
        replay.keep(str(number), b"body", b"frame")
    assert replay.find("9", b"body") is None
    assert replay.find("10", b"body") == b"frame"
    big = b"x" * 2**24
    for number in range(8):
        replay.keep(f"big{number}", b"body", big)
    kept = [number for number in range(8) if replay.find(f"big{number}", b"body")]
    assert 1 <= len(kept) <= 4
    assert kept[-1] == 7
    assert replay.find("1033", b"body") is None


def test_replay_of_other_work() -> None:
    """The same id for other work is refused."""
    replay = Replay()
    replay.keep("1", b"body", b"frame")
    with pytest.raises(DuplicateRequestIdError):
        replay.find("1", b"other")


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53) | st.text(max_size=300), max_size=4))
def test_bodies_are_the_same_exactly_for_the_same_work(data: dict[str, int | str]) -> None:
    """The order of keys does not matter; everything else does."""
    body = body_of("a", data)
    assert body_of("a", dict(reversed(data.items()))) == body
    assert body_of("b", data) != body
    assert body_of("a", {**data, "another": 1}) != body
    assert len(body) <= 512


# ---- alarm ----


def test_alarm_is_in_due_order() -> None:
    """What is due is called in order of its time, then of its setting; the rest waits."""
    clock = FixedClock()
    alarm, called = Alarm(clock), list[str]()
    for due, name in ((30, "c"), (10, "a"), (10, "b"), (50, "d")):
        alarm.at(due, lambda name=name: called.append(name))
    clock.wait(30 / 1e9, CancelToken(clock.now_ns))
    alarm.run_due()
    assert called == ["a", "b", "c"]
    alarm.run_due()
    assert called == ["a", "b", "c"]


def test_alarm_by_the_clock() -> None:
    """The alarm's thread calls back at the time, also what was set while it waited for something later."""
    clock = SystemClock()
    alarm, first, second = Alarm(clock), threading.Event(), threading.Event()
    alarm.start()
    alarm.at(clock.now_ns() + 60 * 10**9, lambda: None)
    due = clock.now_ns() + 50 * 10**6
    alarm.at(due, first.set)
    assert first.wait(PATIENCE_SECONDS)
    assert clock.now_ns() >= due
    alarm.at(clock.now_ns(), second.set)
    assert second.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("due_ns", [2**63, 2**73])
def test_alarm_that_is_never_due(due_ns: int) -> None:
    """A time further off than the system can wait for does not end the alarm's thread."""
    clock = SystemClock()
    alarm, called = Alarm(clock), threading.Event()
    alarm.at(due_ns, lambda: None)
    alarm.start()
    alarm.at(clock.now_ns() + 10**7, called.set)
    assert called.wait(PATIENCE_SECONDS)


# ---- events ----


class Channel:
    """An event channel, its clock, and what it wrote."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.alarm = Alarm(self.clock)
        self.sent: list[dict[str, object]] = []
        self.channel = EventChannel(
            lambda make, _size, _dropped: self.sent.append(orjson.loads(make())),
            self.clock,
            self.alarm,
            INTERVAL_NS,
            wire_event,
        )

    def pass_ns(self, ns: int) -> None:
        """Let time pass."""
        self.clock.wait(ns / 1e9, CancelToken(self.clock.now_ns))
        self.alarm.run_due()

    def publish(self, about: str, before: Any, now: Any) -> None:
        """Publish a change of level."""
        self.channel.publish(PressureChanged(about, before, now, None, None))

    def changes(self) -> list[tuple[object, object]]:
        """Return what was told, as (from, to)."""
        return [(event["data"]["from"], event["data"]["to"]) for event in self.sent]


def test_nothing_before_a_subscription() -> None:
    """Nobody is told of what nobody asked for."""
    channel = Channel()
    channel.publish("cpu", "low", "high")
    channel.channel.subscribe((DeviceLost,))
    channel.publish("cpu", "high", "low")
    assert channel.sent == []


def test_events_are_coalesced() -> None:
    """Of what comes fast only the first and the latest are sent, the latest from where the first left off."""
    channel = Channel()
    channel.channel.subscribe((PressureChanged,))
    channel.publish("cpu", "low", "moderate")
    channel.publish("cpu", "moderate", "high")
    channel.publish("cpu", "high", "critical")
    channel.publish("sim:0", "low", "high")
    assert channel.changes() == [("low", "moderate"), ("low", "high")]
    channel.pass_ns(INTERVAL_NS)
    assert channel.changes() == [("low", "moderate"), ("low", "high"), ("moderate", "critical")]
    channel.pass_ns(10 * INTERVAL_NS)
    assert len(channel.sent) == 3


def test_a_change_back_is_none() -> None:
    """A level that is back where it was by the time it may be told of is not told of."""
    channel = Channel()
    channel.channel.subscribe((PressureChanged,))
    channel.publish("cpu", "low", "high")
    channel.publish("cpu", "high", "critical")
    channel.publish("cpu", "critical", "high")
    channel.pass_ns(INTERVAL_NS)
    assert channel.changes() == [("low", "high")]


def test_losses_are_told_one_by_one() -> None:
    """Each names other things that are gone: none stands for another, and none waits."""
    channel = Channel()
    channel.channel.subscribe((DeviceLost,))
    for name in ("alloc-1", "alloc-2"):
        channel.channel.publish(DeviceLost("sim:0", "gone", (name,), ()))
    assert [event["data"]["allocation_ids"] for event in channel.sent] == [["alloc-1"], ["alloc-2"]]


def test_two_threads_that_overtake_each_other() -> None:
    """A step that is told after the one that followed it does not bring the old level back."""
    channel = Channel()
    channel.channel.subscribe((PressureChanged,))
    channel.publish("cpu", "high", "critical")
    channel.publish("cpu", "moderate", "high")
    channel.pass_ns(INTERVAL_NS)
    assert channel.changes() == [("high", "critical")]
    channel.publish("cpu", "critical", "high")
    channel.publish("cpu", "moderate", "low")
    channel.publish("cpu", "high", "moderate")
    channel.pass_ns(INTERVAL_NS)
    assert channel.changes()[1:] == [("critical", "high"), ("high", "low")]


def test_budgets_are_coalesced() -> None:
    """The latest budget is told from what it first was; one that is back where it was is not told."""
    channel = Channel()
    channel.channel.subscribe((BudgetChanged,))

    def publish(before: int, now: int) -> None:
        channel.channel.publish(BudgetChanged("cpu", before, now, Source.OS, None))

    for before, now in ((1, 2), (2, 3), (3, 4)):
        publish(before, now)
    channel.pass_ns(INTERVAL_NS)
    for before, now in ((4, 5), (5, 4)):
        publish(before, now)
    channel.pass_ns(INTERVAL_NS)
    told = [(event["data"]["previous_bytes"], event["data"]["budget_bytes"]) for event in channel.sent]
    assert told == [(1, 2), (2, 4)]


@given(
    st.lists(
        st.tuples(st.integers(0, INTERVAL_NS), st.sampled_from(["low", "high", "critical"])), max_size=60
    )
)
def test_nothing_is_lost_however_fast_it_comes(steps: list[tuple[int, str]]) -> None:
    """What is told is a chain: each goes on where the one before ended, and the last ends where things are."""
    channel, level = Channel(), "low"
    channel.channel.subscribe((PressureChanged,))
    for wait, now in steps:
        channel.pass_ns(wait)
        if now != level:
            channel.publish("cpu", level, now)
            level = now
        assert len(channel.channel._waiting) <= 1
    channel.pass_ns(2 * INTERVAL_NS)
    ends = ["low", *(to for _, to in channel.changes())]
    assert [before for before, _ in channel.changes()] == ends[:-1]
    assert ends[-1] == level
    assert len(channel.sent) <= sum(wait for wait, _ in steps) / INTERVAL_NS + 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(0, INTERVAL_NS),
            st.sampled_from(["stay", "again", "end"]),
        ),
        max_size=40,
    )
)
def test_numbers_have_no_gaps(steps: list[tuple[str, int, str]]) -> None:
    """Whatever is held back, merged or dropped, the numbers sent are 1, 2, 3 ..., and no faster than allowed."""
    channel, levels = Channel(), dict.fromkeys("abc", 0)
    channel.channel.subscribe((PressureChanged,))
    for about, wait, what in steps:
        channel.pass_ns(wait)
        if what != "stay":
            channel.channel.subscribe((PressureChanged,) if what == "again" else ())
        channel.publish(about, str(levels[about]), str(levels[about] + 1))
        levels[about] += 1
    channel.pass_ns(2 * INTERVAL_NS)
    assert [event["sequence"] for event in channel.sent] == list(range(1, len(channel.sent) + 1))


# ---- tokens and clocks ----


def test_token() -> None:
    """A token lets work go on until it is cancelled; callbacks come once, late ones at once."""
    token, called = CancelToken(FixedClock().now_ns), list[str]()
    token.check()
    token.on_cancel(lambda: called.append("early"))
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("late"))
    assert called == ["early", "late"]
    with pytest.raises(CancelledError):
        token.check()


def test_deadline() -> None:
    """A deadline holds from its very nanosecond on."""
    clock = FixedClock()
    token = CancelToken(clock.now_ns, 10)
    clock.wait(9e-9, CancelToken(clock.now_ns))
    token.check()
    with pytest.raises(DeadlineExceededError):
        clock.wait(1e-9, token)


@pytest.mark.parametrize("deadline_ms", [None, 10**6, 2**53])
def test_waiting_ends_with_the_cancelling(deadline_ms: int | None) -> None:
    """Whoever waits without end is woken by the one who cancels, however far off the deadline is."""
    clock = SystemClock()
    deadline = None if deadline_ms is None else clock.now_ns() + deadline_ms * 10**6
    token = CancelToken(clock.now_ns, deadline)
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(CancelledError):
        clock.wait(None, token)


def test_waiting_ends_with_the_deadline() -> None:
    """A wait that is longer than its deadline ends with it."""
    clock = SystemClock()
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        clock.wait(1000, CancelToken(clock.now_ns, clock.now_ns() + 10**7))
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_fixed_clock_moves_by_waiting() -> None:
    """The fixed clock stands at the epoch and moves by what is waited for, never back."""
    clock = FixedClock()
    token = CancelToken(clock.now_ns)
    assert clock.now_ns() == 0
    assert clock.utc().isoformat() == "1970-01-01T00:00:00+00:00"
    clock.wait(90.5, token)
    assert clock.now_ns() == 90_500_000_000
    with pytest.raises(DeadlineExceededError):
        clock.wait(None, CancelToken(clock.now_ns, 1))
    assert clock.now_ns() == 90_500_000_000


def test_answers_that_are_kept_take_no_more_than_they_need() -> None:
    """A reply is remembered in its own bytes, not in the buffer that it was written into."""
    replay, tracemalloc_was_on = Replay(), tracemalloc.is_tracing()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(500):
        replay.keep(f"r{number}", b"x" * 32, success_frame(f"r{number}", {"size_bytes": number}))
    kept = tracemalloc.get_traced_memory()[0] - before
    if not tracemalloc_was_on:
        tracemalloc.stop()
    assert kept < 500 * 1024
