"""What an engine keeps beside its models is a consumer of memory."""

from protocol.vocabulary import ModelState
from tests.rigs import engines
from tests.rigs.engines import MIB
from tests.unit.workers.engine_machines import NEAR, counted, do, entry, make
from worker.core.consumers import Release
from worker.plugins._leases import Models
from worker.workers.gone import Gone

__all__ = ["make"]


def test_what_an_engine_keeps_is_a_consumer_and_goes_before_any_model(make):
    """It is listed, priced, given back where enough, and others get it: it is not kept free for the model."""
    machine = make(a={"bytes": 8 * MIB}, b={"bytes": 8 * MIB})
    machine.load("a")
    machine.load("b")
    do(machine, "a", engines.grow, bytes=48 * MIB)
    consumers = machine.memory.consumers
    row, _ = consumers.status(("cpu",), "engine")
    assert (row.consumer_id, row.device_id, row.in_use_bytes) == ("engine:a", "cpu", 0)
    assert abs(row.held_bytes - 48 * MIB) < NEAR
    plan = machine.booked.plans.plan_releases("cpu", 32 * MIB, consumers.quotes("cpu"))
    (release,) = [each for each in plan.releases if each.kind == "engine"]
    assert (release.consumer_id, plan.eviction.victims) == ("engine:a", ())
    gone = Gone()
    assert consumers.release((release,), "cpu", "tests", machine.token(), gone) == {}
    (given,) = gone.released
    assert abs(given.claimed_bytes - 48 * MIB) < NEAR
    assert entry(machine, "a").state is ModelState.LOADED
    assert machine.manager.devices.get("cpu").ledger.working_bytes == 0
    assert counted(machine) < 16 * MIB + 2 * NEAR


def test_what_an_engine_keeps_is_in_use_with_its_model(make):
    """A leased model's engine is not asked; one that came into use meanwhile gives nothing, and nothing fails."""
    machine = make(a={})
    machine.load("a")
    do(machine, "a", engines.grow, bytes=16 * MIB)
    consumers = machine.memory.consumers
    (before,) = [each for each in consumers.quotes("cpu") if each.kind == "engine"]
    release = Release("engine:a", "engine", 1, 1, 0.0, before.offers, "")
    with Models(machine.models, machine.clock).use("a"):
        (quote,) = [each for each in consumers.quotes("cpu") if each.kind == "engine"]
        assert quote.holding.spare_bytes == 0
        refused = consumers.release((release,), "cpu", "tests", machine.token(), Gone())
    assert refused == {"engine:a": "it gave nothing back"}
    assert entry(machine, "a").footprint.working_bytes > 8 * MIB
