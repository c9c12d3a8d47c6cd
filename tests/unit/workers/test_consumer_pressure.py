"""Consumers in plans and under pressure: who gives what a device lacks, and whose limit falls and rises."""

import pytest

from protocol.results import MOST_KEPT_CONSUMERS, PressureThresholds
from protocol.vocabulary import ModelState, OptimizationLevel, PressureLevel
from tests.unit.machine import MIB, Machine
from tests.unit.workers.consumers import DEAR, DEVICE, Cache, Store, machine, make_room, state
from worker.core.clock import NS_PER_S
from worker.core.consumers import Offer
from worker.core.errors import PlanStaleError
from worker.core.events import ConsumerLimitChanged
from worker.core.records import WayToPlan
from worker.manager.consumer_table import Registration

__all__ = ["machine"]


def test_a_plan_counts_on_offers_and_is_carried_out_as_it_was_said(machine: Machine) -> None:
    """``memory.plan`` names what others would be asked for; taken up, they are, and the models it said go."""
    cache = Cache(machine, entries=2)
    way = WayToPlan("more", 8 * MIB, DEVICE)
    planned = machine.memory.models.plan((way,), machine.token(), allow_eviction=True)
    row = planned.candidates[0]
    assert row.fits
    assert [(each.consumer_id, each.expected_bytes) for each in row.releases] == [("cache", 2 * MIB)]
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


def test_optimizing_says_why_each_stays(machine: Machine) -> None:
    """Consumers and models: by the level, by their word or their silence, by their price; nobody is named twice."""
    cache = Cache(machine)
    dear = Registration("dear", "cache", DEVICE, 4 * MIB, 0, (Offer(4 * MIB, 400.0, ""),))
    machine.memory.consumers.register(dear)
    relief, token = machine.memory.relief, machine.token()

    def optimized(level: OptimizationLevel, *, dry_run: bool) -> dict[str, str]:
        done = relief.optimize((DEVICE,), level, token, dry_run=dry_run)
        told = [(each.consumer_id, each.reason) for each in done.consumers_kept]
        told += [(each.model_id, each.reason) for each in done.models_kept]
        assert len(dict(told)) == len(told)
        assert not {each.consumer_id for each in done.released if each.claimed_bytes} & dict(told).keys()
        return dict(told)

    calm = optimized(OptimizationLevel.NORMAL, dry_run=False)
    assert calm["cache"] == calm["dear"] == "stays: nothing has to be freed"
    assert calm["m"].endswith("ms ago, and normal unloads what was not for 60000 ms")
    assert (
        optimized(OptimizationLevel.CONSERVATIVE, dry_run=True)["m"] == "stays: conservative unloads no model"
    )
    make_room(machine, 4 * MIB)
    said = optimized(OptimizationLevel.NORMAL, dry_run=True)
    assert "cache" not in said
    assert said["dear"] == "stays: enough is freed without it, at 100 ms/MiB"
    said = optimized(OptimizationLevel.CONSERVATIVE, dry_run=False)
    why = "3 MiB would be asked for, but conservative asks for nothing that has to be rebuilt"
    assert said["cache"] == f"stays: {why}"
    assert "m" not in optimized(OptimizationLevel.AGGRESSIVE, dry_run=True), "it would go"
    machine.on_release_requested = lambda event: cache.say(0)
    assert optimized(OptimizationLevel.NORMAL, dry_run=False)["cache"] == "stays: it gave nothing back"


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


def test_who_takes_part_anew_is_told_of_its_limit_anew(machine: Machine) -> None:
    """The one before it, of the same name, was told of the limit: it was not."""
    consumers, limits = machine.memory.consumers, machine.memory.relief.limits(DEVICE)
    machine.memory.relief.set_limits(DEVICE, type(limits)(None, 0, PressureThresholds(0.1, 0.2, 0.3)))
    for _ in range(2):
        store = Store(machine=machine, entries=1)
        consumers.add(store)
        machine.memory.sample(0)
        assert store.limits == [MIB]
        consumers.remove(store.consumer_id)
    assert machine.manager.consumers.limit("store") is None


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
    assert rises[:-1] == sorted(rises[:-1])
    assert cache.register()[1] is None
