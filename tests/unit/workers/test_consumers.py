"""Consumers of memory that a host registers, and those of plugins: who is asked, in which order, and who is listed."""

from collections.abc import Callable
from math import inf, nan

import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.unit.machine import MIB, Machine
from tests.unit.workers.consumers import DEAR, DEVICE, Cache, Store, machine, make_room, state
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S
from worker.core.consumers import Offer, Usage
from worker.core.errors import (
    ConsumerNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    OutOfMemoryError,
)
from worker.core.events import ReleaseRequested
from worker.manager.consumer_table import CONSUMERS_MAX

__all__ = ["machine"]


Make = Callable[..., Machine]


def test_the_cheaper_goes_first_and_what_came_back_is_measured(machine: Machine) -> None:
    """A host's cache that costs less than the model gives way to it, by just what is missing."""
    cache = Cache(machine)
    made = make_room(machine, 6 * MIB)
    assert cache.asked == [2 * MIB]
    assert [
        (each.consumer_id, each.kind, each.claimed_bytes, each.returned_bytes, each.cost_ms)
        for each in made.released
    ] == [("cache", "cache", 2 * MIB, 2 * MIB, pytest.approx(2.0))]
    assert made.released[0].reason.startswith("cache: 2 MiB at 1 ms/MiB, before model m at ")
    assert not made.models_unloaded
    assert state(machine) is ModelState.LOADED
    event = machine.told(ReleaseRequested)[0]
    assert (event.limit_bytes, event.wait_ms) == (2 * MIB, 5000)
    assert event.reason.startswith(f"{6 * MIB} bytes are needed on sim:0; cache: 2 MiB at 1 ms/MiB")
    machine.close()


def test_the_dearer_is_not_asked(machine: Machine) -> None:
    """Where the model costs less it goes, and nobody is asked for anything."""
    cache = Cache(machine, cost_ms=DEAR)
    made = make_room(machine, 6 * MIB)
    assert (cache.asked, [each.model_id for each in made.models_unloaded], made.released) == ([], ["m"], ())


def test_without_a_listener_there_is_no_offer(machine: Machine) -> None:
    """No event, no offer: the model goes at once, whatever the cache would cost."""
    cache = Cache(machine)
    machine.listening = False
    assert [each.model_id for each in make_room(machine, 6 * MIB).models_unloaded] == ["m"]
    assert not cache.asked


def test_a_load_asks_as_an_allocation_does(machine: Machine) -> None:
    """``load_model`` names what others gave back for it, and leaves a dearer model where it is."""
    machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
    cache = Cache(machine, entries=10)
    loaded = machine.load("m")
    assert cache.asked == [2 * MIB]
    assert [each.claimed_bytes for each in loaded.released] == [2 * MIB]


def test_a_cap_of_our_own_is_not_relieved(machine: Machine) -> None:
    """What the host gives back is no headroom below ``limit_bytes``: it is not even asked."""
    cache = Cache(machine, entries=1)
    limits = machine.memory.relief.limits(DEVICE)
    machine.memory.relief.set_limits(DEVICE, type(limits)(6 * MIB, 0, limits.thresholds))
    assert make_room(machine, 4 * MIB).models_unloaded
    with pytest.raises(LimitExceededError):
        make_room(machine, 4 * MIB)
    assert not cache.asked


def test_registering_adds_to_no_figure_and_never_fails_for_want_of_memory(machine: Machine) -> None:
    """Its bytes are the readings' affair; a device without any headroom takes another registration."""
    cache = Cache(machine)
    make_room(machine, 4 * MIB)
    before = machine.figures()
    assert cache.register(held_bytes=2**62) == (False, None)
    assert cache.register(held_bytes=0, offers=()) == (False, None)
    assert machine.figures() == before


def test_it_is_forgotten_when_it_is_not_renewed(machine: Machine) -> None:
    """A lease ends unless it is registered again, or speaks; then its name is as new."""
    cache = Cache(machine)
    cache.register(lease_ns=NS_PER_S)
    machine.pass_time(NS_PER_S // 2)
    cache.say(0)
    machine.pass_time(3 * NS_PER_S // 4)
    assert cache.register(lease_ns=NS_PER_S) == (False, None)
    machine.pass_time(NS_PER_S)
    with pytest.raises(ConsumerNotFoundError, match="memory.register_consumer registers one"):
        cache.say(0)
    assert cache.register() == (True, None)


def test_released_takes_from_the_front_of_its_offers(machine: Machine) -> None:
    """Held falls by what was given, the cheapest offers with it, and no further than nothing."""
    cache = Cache(machine)
    offers = (Offer(MIB, 1.0, "", divisible=True), Offer(2 * MIB, 8.0, "", divisible=True))
    cache.register(offers=offers)
    assert cache.say(2 * MIB) == (2 * MIB, None)
    host = machine.manager.consumers.get("cache")
    assert host.said.offers == (Offer(MIB, 4.0, "", divisible=True),)
    assert cache.say(100 * MIB) == (0, None)
    assert host.said.offers == ()


@pytest.mark.parametrize("name", ["model:m", "engine:m", "pool:cpu", "external:theirs", "server:ollama"])
def test_the_workers_own_names_are_refused(machine: Machine, name: str) -> None:
    """No host can pass for a model or a pool, and the same holds for a plugin."""
    cache = Cache(machine)
    cache.name = name
    with pytest.raises(InvalidRequestError, match="one of the worker's own"):
        cache.register()
    with pytest.raises(ValueError, match="of the worker's own"):
        machine.memory.consumers.add(Store(name))


def test_there_are_only_so_many(machine: Machine) -> None:
    """Each is looked at for every plan: one too many is refused, and says what to do."""
    cache = Cache(machine)
    for index in range(CONSUMERS_MAX - 1):
        cache.name = f"c{index}"
        cache.register()
    cache.name = "one too many"
    with pytest.raises(InvalidRequestError, match="unregister one"):
        cache.register()
    cache.name = "cache"
    assert cache.register() == (False, None)


def test_what_its_hits_save_is_what_its_bytes_are_worth(machine: Machine) -> None:
    """One that nobody reads is cheap, however dear it says it is; one without a history is what it says."""
    cache = Cache(machine, cost_ms=100.0)
    consumers = machine.memory.consumers

    def price() -> float:
        found = consumers.status((DEVICE,), "cache")[0].price_ms_per_mib
        assert found is not None
        return found

    assert price() == pytest.approx(100.0)
    cache.register(saved_ms=0.0)
    machine.pass_time(60 * NS_PER_S)
    cache.register(saved_ms=40.0)
    idle = price()
    assert 0 < idle < 20
    cache.register(saved_ms=100_000.0)
    assert price() > 10 * 100.0, "what is built again many times in ten minutes is dearer than what is once"
    machine.pass_time(7200 * NS_PER_S)
    assert price() < idle, "what was saved long ago counts for little"


def test_a_plugins_consumer_gives_back_like_any_other(machine: Machine) -> None:
    """It takes part as soon as it is added, is told its limit, and takes part no more once it is removed."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    with pytest.raises(ValueError, match="registered already"):
        machine.memory.consumers.add(store)
    made = make_room(machine, 6 * MIB)
    assert [(each.consumer_id, each.claimed_bytes, each.returned_bytes) for each in made.released] == [
        ("store", 2 * MIB, 2 * MIB)
    ]
    assert "(least used)" in made.released[0].reason
    assert store.limits == [2 * MIB]
    machine.memory.consumers.remove("store")
    assert make_room(machine, 4 * MIB).models_unloaded


def test_this_process_gives_back_while_owners_elsewhere_are_asked(machine: Machine) -> None:
    """Owners hear the question first, and what each gave is still told apart: one that only says so gave nothing."""
    store, cache, order = Store(machine=machine, entries=2), Cache(machine, entries=2), list[str]()
    machine.memory.consumers.add(store)
    give_back = store.release

    def asked(event: ReleaseRequested) -> None:
        order.append("asked")
        cache.say(event.bytes)

    def released(offer: Offer, token: CancelToken) -> int:
        order.append("released")
        return give_back(offer, token)

    machine.on_release_requested = asked
    store.release = released
    made = make_room(machine, 8 * MIB)
    assert order[:3] == ["asked", "released", "released"]
    assert {each.consumer_id: (each.claimed_bytes, each.returned_bytes) for each in made.released} == {
        "store": (2 * MIB, 2 * MIB),
        "cache": (2 * MIB, 0),
    }
    machine.close()


def test_the_rest_of_a_plan_is_carried_out_where_it_is_right_still(machine: Machine) -> None:
    """Others gave what was expected, as the device shows: its models go, and no one is asked for offers or figures again."""
    store, order = Store(machine=machine), list[str]()
    machine.memory.consumers.add(store)
    device = machine.backends[DEVICE]
    give_back, offers, read = store.release, store.offers, device.readings
    store.offers = lambda need: (order.append("offers"), offers(need))[1]
    store.release = lambda offer, token: (order.append("gives"), give_back(offer, token))[1]
    device.readings = lambda device_id: (order.append("read"), read(device_id))[1]
    made = make_room(machine, 10 * MIB)
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert [(each.consumer_id, each.returned_bytes) for each in made.released] == [("store", 2 * MIB)]
    assert order.count("offers") == 1
    given = order[len(order) - order[::-1].index("gives") :]
    assert given == ["read"] * 4, "as it gives; what came of it; in which pieces that is; what is there then"
    machine.close()


def test_a_plan_is_made_anew_where_its_models_are_too_few_by_now(machine: Machine) -> None:
    """Less came back than was expected: no model goes by the old plan, and the others give what is still missing."""
    store, asked = Store(machine=machine), list[int]()
    machine.memory.consumers.add(store)
    give_back, offers = store.release, store.offers
    store.offers = lambda need: (asked.append(need), offers(need))[1]
    store.release = lambda offer, token: offer.bytes if len(asked) == 1 else give_back(offer, token)
    made = make_room(machine, 10 * MIB)
    lied, given = made.released
    assert (lied.claimed_bytes, lied.returned_bytes) == (2 * MIB, 0)
    assert (given.returned_bytes or 0) >= 2 * MIB
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert len(asked) == 2
    machine.close()


def test_what_fails_in_a_plugins_consumer_stops_nothing(machine: Machine) -> None:
    """Its error is logged, nothing is claimed for it, and the plan goes on at the next price."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    store.fails = True
    made = make_room(machine, 6 * MIB)
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert [(each.consumer_id, each.claimed_bytes) for each in made.released] == [("store", 0)]
    store.offers = lambda _need: 1 // 0
    with pytest.raises(OutOfMemoryError):
        make_room(machine, 6 * MIB)
    assert [each.consumer_id for each in machine.memory.consumers.status((DEVICE,), "store")] == []


def test_what_counts_its_uses_is_listed_with_them(machine: Machine) -> None:
    """As a host's consumer is; where that fails, or none are counted, they are unknown."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.hits, row.misses, row.saved_ms) == (None, None, None)
    store.usage = lambda: Usage(3, 2, 40.0)
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.hits, row.misses, row.saved_ms) == (3, 2, 40.0)
    store.usage = lambda: 1 // 0
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.held_bytes, row.hits) == (4 * MIB, None)


def test_what_is_no_offer_is_none(machine: Machine) -> None:
    """Nothing, less than nothing, and costs that are no number are passed over: the plan is made of the rest."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    good = store.offers(0)
    nonsense = (Offer(0, 1.0, ""), Offer(-MIB, 1.0, ""), *(Offer(MIB, cost, "") for cost in (-1.0, inf, nan)))
    store.offers = lambda _need: (*nonsense, *good)
    assert [each.claimed_bytes for each in make_room(machine, 6 * MIB).released] == [2 * MIB]
