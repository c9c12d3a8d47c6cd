"""The alarm of reads that have no limit of time: who waits is found, who reads on is left alone, and nobody is missed."""

import threading
from itertools import count

import pytest

from worker.backends.isolation import alarm as module
from worker.backends.isolation.alarm import Alarm


class Reading:
    """One who reads."""

    def __init__(self) -> None:
        self.reading = 0
        self.looked_up = threading.Event()

    def look_up(self) -> None:
        """End the read: it is over before it is told of, as whoever hears of it begins the next."""
        self.reading = 0
        self.looked_up.set()


def test_who_waits_looks_up() -> None:
    """However long the alarm slept before, and as often as it happens."""
    alarm, reader, other = Alarm(), Reading(), Reading()
    alarm.watch(reader)
    alarm.watch(other)
    for number in range(1, 4):
        reader.reading = number
        if alarm.asleep:
            alarm.rouse()
        assert reader.looked_up.wait(30)
        reader.looked_up.clear()
    assert not other.looked_up.is_set()
    alarm.forget(reader)
    reader.reading, other.reading = 4, 1
    alarm.rouse()
    assert other.looked_up.wait(30)
    assert not reader.looked_up.is_set()


def test_who_reads_one_answer_after_another_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is each read that may take long, not all together."""
    ticks, alarm, reader, reads = threading.Semaphore(0), Alarm(), Reading(), count(2)

    def tick(_: float) -> None:
        reader.reading = next(reads)  # no number twice: other tests' alarms may tick here, too
        ticks.release()

    monkeypatch.setattr(module.time, "sleep", tick)
    reader.reading = 1
    alarm.watch(reader)
    for _ in range(50):
        assert ticks.acquire(timeout=30)
    alarm.forget(reader)  # it reads no more once nobody ticks
    monkeypatch.undo()
    assert not reader.looked_up.is_set()


def test_an_alarm_that_has_nothing_to_do_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody reads; one who began before it could see that is not missed."""
    monkeypatch.setattr(module, "_IDLE_TICKS", 0)
    alarm, reader = Alarm(), Reading()
    alarm.watch(reader)
    for number in range(1, 200):
        reader.reading = number
        if alarm.asleep:
            alarm.rouse()
        if number % 10:
            reader.reading = 0  # it had its answer
        else:
            assert reader.looked_up.wait(30)
            reader.looked_up.clear()
