"""Events: coalesced, numbered, and none lost that is told one by one."""

from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from protocol.vocabulary import PressureLevel, Source
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.events import BudgetChanged, DeviceLost, Figures, PressureChanged
from worker.instructor.events import wire_event
from worker.stream.alarm import Alarm
from worker.stream.event_channel import INTERVAL_NS, EventChannel


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


class Pipe:
    """A channel whose host does not read: what it is to write waits, and may be dropped."""

    def __init__(self) -> None:
        clock = FixedClock()
        self.waiting: list[Callable[[], bytes]] = []
        self.channel = EventChannel(
            lambda make, _size, _dropped: self.waiting.append(make),
            clock,
            Alarm(clock),
            INTERVAL_NS,
            wire_event,
        )
        self.channel.subscribe((Figures, DeviceLost))

    def figures(self, uptime_ms: int) -> None:
        """Take figures."""
        self.channel.publish(Figures(uptime_ms, PressureLevel.LOW, (), ()))

    def read(self) -> list[dict[str, Any]]:
        """Read what waits."""
        frames = [orjson.loads(make()) for make in self.waiting]
        self.waiting.clear()
        return frames


def test_a_host_that_does_not_read_has_the_newest_figures_alone() -> None:
    """However many were taken meanwhile, one waits; it says how many it stands for, and numbers have no gap."""
    pipe = Pipe()
    pipe.figures(1)
    pipe.channel.publish(DeviceLost("cpu", "why", (), ()))
    for uptime_ms in range(2, 1000):
        pipe.figures(uptime_ms)
    first, lost = pipe.read()
    assert (first["data"]["uptime_ms"], first["data"]["skipped"], first["sequence"]) == (999, 998, 1)
    assert (lost["event"], lost["sequence"]) == ("device.lost", 2)
    pipe.figures(1000)
    (next_one,) = pipe.read()
    assert (next_one["data"]["uptime_ms"], next_one["data"]["skipped"]) == (1000, 0)


def test_figures_that_gave_way_to_other_events_come_again() -> None:
    """Where too much waits the oldest is dropped: what takes its place later is sent."""
    pipe = Pipe()
    pipe.figures(1)
    pipe.waiting.clear()
    pipe.figures(2)
    (frame,) = pipe.read()
    assert (frame["data"]["uptime_ms"], frame["data"]["skipped"]) == (2, 0)
