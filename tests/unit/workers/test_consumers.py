"""Consumers of memory that a host registers, and those of plugins: who is asked, in which order, and what counts."""

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from protocol.results import MOST_KEPT_CONSUMERS, AllocateResult, PressureThresholds
from protocol.vocabulary import Executed, ModelState, OptimizationLevel, PressureLevel, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S
from worker.core.consumers import Holding, Offer, Usage
from worker.core.errors import (
    ConsumerNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    OutOfMemoryError,
    PlanStaleError,
)
from worker.core.events import ConsumerLimitChanged, ReleaseRequested
from worker.core.records import AllocationRequest, WayToPlan
from worker.manager.consumer_table import CONSUMERS_MAX, Registration
from worker.workers.gone import Gone
from worker.workers.headroom import ROUNDS

DEVICE = "sim:0"
DEAR = 10_000.0


class Cache:
    """A cache of a host's on the device, in entries of 1 MiB: it answers as it is told to."""

    def __init__(self, machine: Machine, entries: int = 4, cost_ms: float = 1.0, name: str = "cache") -> None:
        self.name, self._machine, self._cost_ms = name, machine, cost_ms
        self.asked: list[int] = []
        self.entries = [machine.allocate(DEVICE, MIB, owner=name) for _ in range(entries)]
        machine.on_release_requested = self.give
        self.register()

    def register(self, **more: Any) -> tuple[bool, int | None]:
        held = len(self.entries) * MIB
        offers = (Offer(held, self._cost_ms * len(self.entries), "", divisible=True),) if held else ()
        fields = {
            "kind": "cache",
            "device_id": DEVICE,
            "held_bytes": held,
            "floor_bytes": 0,
            "offers": offers,
        }
        return self._machine.memory.consumers.register(Registration(self.name, **fields | more))

    def drop(self, entries: int) -> None:
        for _ in range(min(entries, len(self.entries))):
            self._machine.memory.allocations.deallocate(self.entries.pop(), force=True)

    def say(self, size: int) -> tuple[int, int | None]:
        return self._machine.memory.consumers.released(self.name, size)

    def give(self, event: ReleaseRequested) -> None:
        """Give what is asked for, in whole entries."""
        self.asked.append(event.bytes)
        count = -(-event.bytes // MIB)
        self.drop(count)
        self.say(count * MIB)


Make = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with a device of 12 MiB, and a model of 4 that is loaded there."""
    write_model(tmp_path / "m.safetensors", 4 * MIB, seed=1)
    made = Machine(
        tmp_path, SimulatedDevice(12 * MIB), models=(spec(tmp_path / "m.safetensors", device_id=DEVICE),)
    )
    made.load("m")
    made.manager.models.get("m").load_ms = 400  # the clock stands: as if it had been measured
    return made


def make_room(machine: Machine, size: int, **more: Any) -> AllocateResult:
    """Allocate, making headroom."""
    request, allocations = AllocationRequest(DEVICE, size), machine.memory.allocations
    return allocations.allocate(allocations.new_id(), request, machine.token(), make_room=True, **more)


def state(machine: Machine) -> ModelState:
    return machine.manager.models.get("m").state


# ---- who is asked ----


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


# ---- what counts ----


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


# ---- registering ----


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


# ---- consumers of plugins ----


class Store:
    """A consumer in this process, with memory on the device."""

    kind = "store"

    def __init__(self, consumer_id: str = "store", machine: Machine | None = None, entries: int = 4) -> None:
        self.consumer_id, self.device_id, self._machine = consumer_id, DEVICE, machine
        self.entries = [] if machine is None else [machine.allocate(DEVICE, MIB) for _ in range(entries)]
        self.limits: list[int | None] = []
        self.fails = False

    def holding(self) -> Holding:
        return Holding(len(self.entries) * MIB)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return tuple(Offer(MIB, 1.0, "least used", tag=index) for index in range(len(self.entries)))

    def release(self, offer: Offer, token: CancelToken) -> int:
        token.check()
        assert self._machine is not None
        if self.fails:
            raise RuntimeError("no")
        self._machine.memory.allocations.deallocate(self.entries.pop(), force=True)
        return offer.bytes

    def limit_changed(self, limit_bytes: int | None, _reason: str) -> None:
        self.limits.append(limit_bytes)


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
    store.release = released  # type: ignore[method-assign]
    made = make_room(machine, 8 * MIB)
    assert order[:3] == ["asked", "released", "released"]
    assert {each.consumer_id: (each.claimed_bytes, each.returned_bytes) for each in made.released} == {
        "store": (2 * MIB, 2 * MIB),
        "cache": (2 * MIB, 0),
    }
    machine.close()


def test_what_fails_in_a_plugins_consumer_stops_nothing(machine: Machine) -> None:
    """Its error is logged, nothing is claimed for it, and the plan goes on at the next price."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    store.fails = True
    made = make_room(machine, 6 * MIB)
    assert [each.model_id for each in made.models_unloaded] == ["m"]
    assert [(each.consumer_id, each.claimed_bytes) for each in made.released] == [("store", 0)]
    store.offers = lambda _need: 1 // 0  # type: ignore[method-assign, assignment, return-value]  # the test's own in its place
    with pytest.raises(OutOfMemoryError):
        make_room(machine, 6 * MIB)
    assert [each.consumer_id for each in machine.memory.consumers.status((DEVICE,), "store")] == []


def test_what_counts_its_uses_is_listed_with_them(machine: Machine) -> None:
    """As a host's consumer is; where that fails, or none are counted, they are unknown."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.hits, row.misses, row.saved_ms) == (None, None, None)
    store.usage = lambda: Usage(3, 2, 40.0)  # type: ignore[attr-defined]  # on purpose, for the test
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.hits, row.misses, row.saved_ms) == (3, 2, 40.0)
    store.usage = lambda: 1 // 0  # type: ignore[attr-defined]  # on purpose, for the test
    (row,) = machine.memory.consumers.status((DEVICE,), "store")
    assert (row.held_bytes, row.hits) == (4 * MIB, None)


def test_what_is_no_offer_is_none(machine: Machine) -> None:
    """Nothing, less than nothing, and costs that are no number are passed over: the plan is made of the rest."""
    store = Store(machine=machine)
    machine.memory.consumers.add(store)
    good = store.offers(0)
    nonsense = (Offer(0, 1.0, ""), Offer(-MIB, 1.0, ""), *(Offer(MIB, cost, "") for cost in (-1.0, inf, nan)))
    store.offers = lambda _need: (*nonsense, *good)  # type: ignore[method-assign]  # the test's own in its place
    assert [each.claimed_bytes for each in make_room(machine, 6 * MIB).released] == [2 * MIB]


# ---- plans ----


def test_a_plan_counts_on_offers_and_is_carried_out_as_it_was_said(machine: Machine) -> None:
    """``memory.plan`` names what others would be asked for; taken up, they are, and the models it said go."""
    cache = Cache(machine, entries=2)
    way = WayToPlan("more", 8 * MIB, DEVICE)
    planned = machine.memory.models.plan((way,), machine.token(), allow_eviction=True)
    row = planned.candidates[0]
    assert row.fits
    assert [(each.consumer_id, each.expected_bytes) for each in row.releases] == [
        ("cache", 2 * MIB)
    ] or row.evictions
    assert not cache.asked, "nothing was changed"
    made = make_room(machine, 8 * MIB, plan_id=planned.plan_id)
    assert [each.model_id for each in made.models_unloaded] == [each.model_id for each in row.evictions]
    assert [each.consumer_id for each in made.released] == [each.consumer_id for each in row.releases]


def test_a_plan_says_of_those_that_stay_why(machine: Machine) -> None:
    """The first sixteen, the cheapest first; where nobody hears the question, that is why; of what holds nothing, nothing."""
    Cache(machine)
    for number in range(20):
        offers = (Offer(MIB, DEAR + number, ""),)
        said = Registration(f"dear {number}", "cache", DEVICE, MIB, 0, offers)
        machine.memory.consumers.register(said)
    machine.memory.consumers.register(Registration("empty", "cache", DEVICE, 0, 0, ()))

    def kept() -> list[tuple[str, float | None, str]]:
        way = WayToPlan("more", 6 * MIB, DEVICE)
        (row,) = machine.memory.models.plan((way,), machine.token(), allow_eviction=True).candidates
        return [(each.consumer_id, each.price_ms_per_mib, each.reason) for each in row.consumers_kept]

    assert [(name, price) for name, price, _ in kept()] == [
        (f"dear {number}", DEAR + number) for number in range(MOST_KEPT_CONSUMERS)
    ]
    machine.listening = False
    assert kept()[0] == ("cache", None, "stays: nobody listens for memory.release_requested")
    assert len(kept()) == MOST_KEPT_CONSUMERS


def test_a_plan_whose_promise_was_not_kept_is_stale(machine: Machine) -> None:
    """What it counted on did not come: no model goes for it in vain, and the error says what was given."""
    cache = Cache(machine)
    way = WayToPlan("more", 6 * MIB, DEVICE)
    planned = machine.memory.models.plan((way,), machine.token(), allow_eviction=True)
    machine.on_release_requested = lambda event: cache.say(event.bytes)
    with pytest.raises(PlanStaleError, match="bytes more are missing") as refused:
        make_room(machine, 6 * MIB, plan_id=planned.plan_id)
    assert refused.value.details["released"]
    assert state(machine) is ModelState.LOADED


# ---- pressure ----


def test_optimizing_takes_what_the_pressure_asks_for(machine: Machine) -> None:
    """No consumer is asked on a calm device; on a full one, for what makes it calm, and a dry run only says so."""
    cache = Cache(machine)
    relief, token = machine.memory.relief, machine.token()
    assert not relief.optimize((DEVICE,), OptimizationLevel.NORMAL, token, dry_run=False).released
    make_room(machine, 4 * MIB)
    said = relief.optimize((DEVICE,), OptimizationLevel.NORMAL, token, dry_run=True)
    assert [(each.consumer_id, each.returned_bytes) for each in said.released] == [("cache", None)]
    assert not cache.asked
    assert not relief.optimize((DEVICE,), OptimizationLevel.CONSERVATIVE, token, dry_run=False).released
    done = relief.optimize((DEVICE,), OptimizationLevel.NORMAL, token, dry_run=False)
    assert [each.claimed_bytes for each in done.released] == [4 * MIB]
    assert done.returned_bytes == 4 * MIB
    assert not done.steps, "the model was used just now"


class Idle(Store):
    """A consumer whose memory is in the ledger, and free to give."""

    allocated = True

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return tuple(Offer(MIB, 0.0, "idle", tag=index) for index in range(len(self.entries)))


def cap(machine: Machine, limit_bytes: int) -> None:
    relief = machine.memory.relief
    relief.set_limits(DEVICE, type(relief.limits(DEVICE))(limit_bytes, 0, relief.limits(DEVICE).thresholds))


def test_optimizing_asks_no_one_for_what_only_a_cap_lacks(machine: Machine) -> None:
    """What others hold does not count towards ``limit_bytes``: it stays, and no limit falls, however full the cap is."""
    cache = Cache(machine)
    cap(machine, 8 * MIB)
    relief = machine.memory.relief
    assert relief.level_now((DEVICE,)) is PressureLevel.CRITICAL
    for dry_run in (True, False, False):
        done = relief.optimize((DEVICE,), OptimizationLevel.NORMAL, machine.token(), dry_run=dry_run)
        assert not done.released
    machine.memory.sample(0)
    assert (cache.asked, len(cache.entries), machine.told(ConsumerLimitChanged)) == ([], 4, [])


def test_optimizing_below_a_cap_asks_for_what_the_device_lacks_besides(machine: Machine) -> None:
    """Where the device itself is short, too, others are asked for that part of it, and told not to grow."""
    cache = Cache(machine)
    machine.allocate(DEVICE, 7 * MIB // 2)
    cap(machine, 8 * MIB)
    machine.memory.sample(0)
    assert [each.limit_bytes for each in machine.told(ConsumerLimitChanged)] == [4 * MIB]
    relief = machine.memory.relief
    calm = -(-8 * MIB * (100 - relief.limits(DEVICE).thresholds.moderate) // 100)
    relief.optimize((DEVICE,), OptimizationLevel.NORMAL, machine.token(), dry_run=False)
    assert cache.asked == [pytest.approx(calm - MIB // 2, abs=1000)]


def test_optimizing_below_a_cap_takes_idle_allocations(machine: Machine) -> None:
    """What is idle and in the ledger helps below a cap: it goes, for nothing, and no one else is asked."""
    cache, idle = Cache(machine, entries=1), Idle("buffers", machine, entries=2)
    machine.memory.consumers.add(idle)
    cap(machine, 7 * MIB)
    relief = machine.memory.relief
    done = relief.optimize((DEVICE,), OptimizationLevel.NORMAL, machine.token(), dry_run=False)
    assert [(each.consumer_id, each.claimed_bytes) for each in done.released] == [("buffers", 2 * MIB)]
    assert (idle.entries, cache.asked) == ([], [])


def test_what_a_plan_lacks_below_a_cap_is_told_without_what_is_idle(machine: Machine) -> None:
    """Of a need that can't be met nothing goes, and the shortfall is what is missing once all that could go went."""
    lacked = []
    for idle in (None, Idle("buffers", machine, entries=2)):
        if idle is not None:
            machine.memory.consumers.add(idle)
        quotes = machine.memory.consumers.quotes(DEVICE)
        plan = machine.booked.plans.plan_releases(DEVICE, 64 * MIB, quotes, own_bytes=64 * MIB)
        assert (plan.meetable, plan.releases, plan.need_bytes) == (False, (), 64 * MIB)
        lacked.append(plan.need_bytes - plan.ceiling_bytes)
    assert lacked[0] - lacked[1] == 2 * MIB


def test_limits_fall_under_pressure_and_rise_again_but_not_in_a_loop(machine: Machine) -> None:
    """Under high pressure it is not to grow; then the limit rises by steps, each later where it had to fall again."""
    cache = Cache(machine)
    limits = machine.memory.relief.limits(DEVICE)
    thresholds = PressureThresholds(80.0, 90.0, 95.0)
    machine.memory.relief.set_limits(DEVICE, type(limits)(None, 0, thresholds))
    filler = make_room(machine, 4 * MIB).allocation_id
    machine.memory.sample(0)
    told = machine.told(ConsumerLimitChanged)
    assert [(each.consumer_id, each.limit_bytes) for each in told] == [("cache", 4 * MIB)]
    assert "critical pressure" in told[0].reason
    relief, token = machine.memory.relief, machine.token()
    relief.optimize((DEVICE,), OptimizationLevel.NORMAL, token, dry_run=False)
    assert len(cache.asked) == 1
    machine.memory.allocations.deallocate(filler, force=True)
    rises = list[int | None]()
    for _ in range(40):
        machine.pass_time(31 * NS_PER_S)
        machine.memory.sample(0)
        rises = [each.limit_bytes for each in machine.told(ConsumerLimitChanged)[1:]]
        if rises and rises[-1] is None:
            break
    assert rises[-1] is None, "there is headroom: no limit any more"
    assert rises[:-1] == sorted(rises[:-1])  # type: ignore[type-var]  # on purpose, for the test
    assert cache.register()[1] is None
