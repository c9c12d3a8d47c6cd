"""What counts of what consumers say that they gave back: what the device shows, and no more."""

from typing import Any

import pytest

from protocol.vocabulary import Executed, ModelState
from tests.unit.machine import MIB, Machine
from tests.unit.workers.consumers import DEVICE, Cache, machine, make_room, state
from worker.core.clock import NS_PER_S
from worker.core.consumers import Offer
from worker.core.errors import OutOfMemoryError
from worker.core.events import ReleaseRequested
from worker.workers.gone import Gone
from worker.workers.headroom import ROUNDS

__all__ = ["machine"]


def test_who_is_silent_is_passed_over_and_let_be_for_a_while(machine: Machine) -> None:
    """The plan goes on at the next price after ``wait_ms``; the next request does not wait for the same again."""
    cache = Cache(machine)
    machine.on_release_requested = lambda _event: None
    before = machine.clock.now_ns()
    made = make_room(machine, 6 * MIB)
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert machine.clock.now_ns() - before == 5 * NS_PER_S
    machine.on_release_requested = cache.give
    with pytest.raises(
        OutOfMemoryError, match="'cache' stays: it did not answer when it was asked"
    ) as refused:
        make_room(machine, 4 * MIB)
    assert refused.value.details["consumers_asked"] == ["cache"]
    assert not cache.asked
    machine.pass_time(31 * NS_PER_S)
    assert make_room(machine, 4 * MIB).released
    assert cache.asked


def test_a_lie_frees_nothing_and_prices_the_next_promise(machine: Machine) -> None:
    """Only what the device shows counts: the model goes after all, and the liar's promises count for less."""
    cache = Cache(machine)
    machine.on_release_requested = lambda event: cache.say(event.bytes)
    made = make_room(machine, 6 * MIB)
    assert [(each.claimed_bytes, each.returned_bytes) for each in made.released] == [(2 * MIB, 0)]
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    row = machine.memory.consumers.status((DEVICE,), "cache")[0]
    assert (row.claimed_bytes, row.returned_bytes) == (2 * MIB, 0)
    assert row.price_ms_per_mib == pytest.approx(2.0), "half of it was true so far"
    machine.check()


def test_what_came_back_before_its_word_is_still_its_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's answer, of nothing, is heard first and the device is read: what is there already is not lost to that."""
    cache = Cache(machine)
    idle = Cache(machine, entries=0, name="idle")
    idle.register(held_bytes=MIB, offers=(Offer(MIB, 0.001, "", divisible=True),))
    machine.on_release_requested = lambda event: cache.drop(1) if event.consumer_id == "cache" else None

    def one_after_the_other(wanted: Any, send: Any, _token: Any, _wait_ns: int, answered: Any) -> Any:
        send()
        answers = {name: 0 if name == "idle" else MIB for name in sorted(wanted, reverse=True)}
        for name, said in answers.items():
            answered({name: said})
        return answers

    monkeypatch.setattr(machine.memory.consumers.questions, "ask", one_after_the_other)
    made = make_room(machine, 6 * MIB)
    returned = [(each.consumer_id, each.claimed_bytes, each.returned_bytes) for each in made.released]
    assert returned[:2] == [("idle", 0, 0), ("cache", MIB, MIB)]
    machine.close()


def test_who_gives_less_is_asked_again_and_who_gives_more_is_not(machine: Machine) -> None:
    """Headroom is planned anew after each answer, by the readings: what is missing still is asked for again."""
    cache = Cache(machine)

    def one_by_one(event: ReleaseRequested) -> None:
        cache.asked.append(event.bytes)
        cache.drop(1)
        cache.say(MIB)

    machine.on_release_requested = one_by_one
    assert [each.claimed_bytes for each in make_room(machine, 6 * MIB).released] == [MIB, MIB]
    assert cache.asked == [2 * MIB, MIB]
    machine.on_release_requested = lambda _event: (cache.drop(2), cache.say(2 * MIB))
    made = make_room(machine, MIB)
    assert [(each.claimed_bytes, each.returned_bytes) for each in made.released] == [(2 * MIB, 2 * MIB)]
    assert state(machine) is ModelState.LOADED


def test_one_answer_that_two_wait_for_counts_once(machine: Machine) -> None:
    """The bytes are the first one's, in its reply and in the history; the other may ask again, at once."""
    cache, consumers = Cache(machine), machine.memory.consumers
    releases = machine.booked.plans.plan_releases(DEVICE, 6 * MIB, consumers.quotes(DEVICE)).releases
    first, second, refused = Gone(), Gone(), []

    def ask_meanwhile(_event: ReleaseRequested) -> None:
        machine.on_release_requested = cache.give
        refused.append(consumers.release(releases, DEVICE, "second", machine.token(), second))

    machine.on_release_requested = ask_meanwhile
    refused.append(consumers.release(releases, DEVICE, "first", machine.token(), first))
    (asked,) = cache.asked
    assert [each.claimed_bytes for each in first.released] == [asked]
    assert (second.released, refused) == ([], [{}, {}])
    (row,) = consumers.status((DEVICE,), "cache")
    assert (row.claimed_bytes, row.returned_bytes) == (asked, asked)
    machine.close()


def test_it_is_not_asked_for_ever(machine: Machine) -> None:
    """One that gives a crumb each time is asked so often and no more; then the plan goes on at the next price."""
    cache = Cache(machine)
    crumbs = [machine.allocate(DEVICE, 4096, owner="cache") for _ in range(2 * ROUNDS)]

    def give_a_crumb(event: ReleaseRequested) -> None:
        cache.asked.append(event.bytes)
        machine.memory.allocations.deallocate(crumbs.pop(), force=True)
        cache.say(4096)

    machine.on_release_requested = give_a_crumb
    assert make_room(machine, 6 * MIB).models_unloaded
    assert len(cache.asked) == ROUNDS


def test_one_that_is_unregistered_while_it_is_asked_is_not_waited_for(machine: Machine) -> None:
    """It is gone, and so is its offer: the next price, at once."""
    Cache(machine)
    machine.on_release_requested = lambda event: machine.memory.consumers.unregister(event.consumer_id)
    before = machine.clock.now_ns()
    made = make_room(machine, 6 * MIB)
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert machine.clock.now_ns() == before


def test_it_may_fill_up_while_it_gives_back(machine: Machine) -> None:
    """An update during the question is no answer; what it says it holds is as it says last."""
    cache = Cache(machine)

    def fill_and_give(event: ReleaseRequested) -> None:
        cache.register(held_bytes=64 * MIB)
        cache.give(event)

    machine.on_release_requested = fill_and_give
    assert [each.returned_bytes for each in make_room(machine, 6 * MIB).released] == [2 * MIB]
    assert machine.memory.consumers.status((DEVICE,), "cache")[0].held_bytes == 62 * MIB


def test_what_was_given_in_vain_is_in_the_error(machine: Machine) -> None:
    """Where it does not fit after all, the error names what others gave back, and the ledger is as it was."""
    cache = Cache(machine)
    machine.on_release_requested = lambda event: cache.say(event.bytes)
    machine.manager.models.get("m").pinned = True
    before = machine.figures()
    with pytest.raises(OutOfMemoryError) as refused:
        make_room(machine, 6 * MIB)
    assert refused.value.executed is Executed.YES
    assert {each.consumer_id for each in refused.value.details["released"]} == {"cache"}
    assert machine.figures() == before
