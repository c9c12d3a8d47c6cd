"""Who gave what, where consumers of this process and owners elsewhere give back at the same time."""

from dataclasses import replace

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.consumers import Consumer, Holding, Offer, Release
from worker.core.records import HOST, Readings
from worker.core.sure_lock import SureRLock
from worker.manager.consumer_table import ConsumerTable
from worker.manager.devices import NO_READINGS
from worker.workers.gone import Gone
from worker.workers.questions import Questions
from worker.workers.release_round import ReleaseRound


class Memory:
    """The machine's memory: what is free, and what this process has."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.questions = Questions(self.clock)
        self.free, self.process = 0, 1000
        self.looks: list[str] = []
        self.seen: Readings | None = None
        """What a device shows whose memory the system moves out; None for one that has none of that."""

    def readings(self, _device_id: str, *, recent: bool = False) -> Readings:
        self.looks.append("recent" if recent else "now")
        plain = replace(NO_READINGS, free_bytes=self.free, process_used_bytes=self.process)
        return self.seen or plain

    def lower(self, consumer: Consumer, reason: str) -> None:
        pass

    def failed(self, _consumer: Consumer, error: Exception) -> None:
        raise error


class Part:
    """A consumer of this process, or one whose owner is elsewhere."""

    kind, device_id = "cache", HOST

    def __init__(self, consumer_id: str, memory: Memory, *, lies: bool) -> None:
        self.consumer_id, self._memory, self._lies = consumer_id, memory, lies

    def holding(self) -> Holding:
        return Holding(100)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return (Offer(100, 1.0, ""),)

    def release(self, offer: Offer, token: CancelToken) -> int:
        token.check()
        if not self._lies:
            self._memory.free += offer.bytes
            self._memory.process -= offer.bytes
        self._memory.questions.answer("elsewhere", 100)
        return offer.bytes


class Owned(Part):
    """One whose owner is elsewhere: its memory goes at once, and its word comes later."""

    unheard = None

    def ask(self, size_bytes: int, _reason: str, _wait_ms: int) -> None:
        self.gone = 0 if self._lies else size_bytes


@pytest.mark.parametrize(("here_lies", "there_lies"), [(False, False), (True, False), (False, True)])
def test_each_is_told_from_the_other(here_lies: bool, there_lies: bool) -> None:
    """What this process has less of is its consumer's; the rest that the machine has more is the owner's."""
    memory, gone = Memory(), Gone()
    here, there = Part("here", memory, lies=here_lies), Owned("elsewhere", memory, lies=there_lies)
    give_back = here.release

    def meanwhile(offer: Offer, token: CancelToken) -> int:
        memory.free += there.gone
        return give_back(offer, token)

    here.release = meanwhile
    wanted = [
        (each, Release(each.consumer_id, "cache", 100, 100, 1.0, each.offers(100), "a test"))
        for each in (here, there)
    ]
    table, token = ConsumerTable(SureRLock(), memory.clock), CancelToken(memory.clock.now_ns)
    round_ = ReleaseRound(memory, table, memory.clock, HOST, token, gone, frozenset({"here"}))
    refused = round_.run(wanted, "a test", 10**9)
    returned = {each.consumer_id: (each.claimed_bytes, each.returned_bytes) for each in gone.released}
    assert returned == {
        "here": (100, 0 if here_lies else 100),
        "elsewhere": (100, 0 if there_lies else 100),
    }
    assert not refused
    assert memory.looks == ["recent", "now"], "one look shows what all of them gave by then"


FULL = replace(
    NO_READINGS,
    total_bytes=1000,
    used_bytes=1000,
    free_bytes=0,
    process_used_bytes=600,
    process_demoted_bytes=300,
)
"""A device of which another process has 400 bytes, and ours 300 fewer than it holds."""


@pytest.mark.parametrize(
    "after",
    [
        replace(FULL, process_used_bytes=700, process_demoted_bytes=200),
        replace(FULL, used_bytes=900),
        replace(FULL, used_bytes=950, process_used_bytes=650, process_demoted_bytes=250),
    ],
    ids=["moved back", "not yet", "half of it"],
)
def test_what_is_given_back_counts_where_moved_memory_takes_its_place(after: Readings) -> None:
    """A device that owes memory shows nothing free after a release; who gave it is believed the next time all the same."""
    memory, gone = Memory(), Gone()
    owner = Owned("elsewhere", memory, lies=False)
    memory.seen = FULL

    def give_back(_size_bytes: int, _reason: str, _wait_ms: int) -> None:
        memory.seen = after
        memory.questions.answer("elsewhere", 100)

    owner.ask = give_back
    table, token = ConsumerTable(SureRLock(), memory.clock), CancelToken(memory.clock.now_ns)
    release = Release("elsewhere", "cache", 100, 100, 1.0, owner.offers(100), "a test")
    ReleaseRound(memory, table, memory.clock, "sim:0", token, gone, frozenset()).run(
        [(owner, release)], "a test", 10**9
    )
    assert [(each.claimed_bytes, each.returned_bytes) for each in gone.released] == [(100, 100)]
