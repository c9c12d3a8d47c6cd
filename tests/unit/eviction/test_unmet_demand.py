"""Entries that were refused memory one by one: together they are worth what one large thing is, and then it goes."""

from collections.abc import Callable

from worker.core.consumers import Holding, Offer, Quote
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import ReleasePlan, plan_others
from worker.eviction.unmet_demand import REMEMBERED, UnmetDemand
from worker.eviction.use_rate import HALF_LIFE_NS
from worker.tools.simulate.consumer_replay import replay_planned
from worker.tools.simulate.consumer_trace import ConsumerTrace, Entry
from worker.tools.simulate.partitions import best_partition

DEVICE = "sim:0"


def planner(*models: tuple[int, float]) -> Callable[[int], ReleasePlan]:
    """Return what plans over models of so many bytes and milliseconds."""
    offers = tuple(Offer(size, cost, "") for size, cost in models)
    quote = Quote("models", "model", DEVICE, Holding(sum(size for size, _ in models)), offers)
    return lambda need: plan_others((quote,), ReleaseNeed(DEVICE, need))


def test_one_that_is_large_goes_for_many_that_are_small() -> None:
    """None of them is worth it alone; it goes once those that fit into it are clearly worth more."""
    unmet, plan = UnmetDemand(), planner((100, 50.0))
    for number in range(8):
        assert unmet.plan(10, 10.0, plan(10), plan, 0) is None, "less than 1.7 times its worth was refused"
        unmet.refuse(("kv", f"{number}"), 10, 10.0, 0)
    found = unmet.plan(10, 10.0, plan(10), plan, 0)
    assert found is not None
    assert [each.bytes for each in found.releases] == [100]


def test_what_does_not_fit_beside_it_counts_for_nothing() -> None:
    """Only what is left of the plan's bytes is theirs."""
    unmet, plan = UnmetDemand(), planner((100, 50.0))
    for number in range(20):
        unmet.refuse(("kv", f"{number}"), 91, 60.0, 0)
    assert unmet.plan(10, 10.0, plan(10), plan, 0) is None


def test_more_of_the_large_go_where_that_pays() -> None:
    """A plan for the entry alone frees too little for the others: one for more is looked at."""
    unmet, plan = UnmetDemand(), planner((10, 20.0), (100, 21.0))
    for number in range(10):
        unmet.refuse(("kv", f"{number}"), 10, 9.0, 0)
    found = unmet.plan(10, 5.0, plan(10), plan, 0)
    assert found is not None
    assert sum(each.bytes for each in found.releases) >= 100


def test_what_is_kept_or_long_ago_is_not_waited_for() -> None:
    """An entry that found memory waits no more; one that was not asked for in ten minutes does not either."""
    unmet, plan = UnmetDemand(), planner((100, 50.0))
    for number in range(8):
        unmet.refuse(("kv", f"{number}"), 10, 10.0, 0)
    assert unmet.plan(10, 10.0, plan(10), plan, HALF_LIFE_NS) is not None
    unmet.forget(("kv", "0"))
    assert unmet.plan(10, 10.0, plan(10), plan, HALF_LIFE_NS) is None
    unmet.refuse(("kv", "0"), 10, 10.0, 1)
    assert unmet.plan(10, 10.0, plan(10), plan, HALF_LIFE_NS + 1) is None, "the others are too long ago"


def test_only_so_many_are_remembered() -> None:
    """The latest count: memory does not grow with time."""
    unmet, plan = UnmetDemand(), planner((100_000, 50_000.0))
    unmet.refuse(("kv", "great"), 10, 1_000_000.0, 0)
    assert unmet.plan(10, 1.0, plan(10), plan, 0) is not None
    for number in range(REMEMBERED):
        unmet.refuse(("kv", f"{number}"), 10, 1.0, 0)
    assert unmet.plan(10, 1.0, plan(10), plan, 0) is None


def test_a_loop_that_just_fits_takes_the_place_of_a_model_that_is_used_less() -> None:
    """The best partition gives such a loop all memory; a plan for one entry at a time never did."""
    turns = [("kv", f"{number}") for number in range(40)]
    uses = [use for turn in range(30) for use in (*turns, ("models", f"{turn % 2}"))]
    entries = {
        "models": {f"{number}": Entry(400, 1000.0) for number in range(2)},
        "kv": {name: Entry(10, 100.0) for _, name in turns},
    }
    trace = ConsumerTrace(entries, 500, (("models", "0"), ("models", "0"), *uses))
    planned, hindsight = replay_planned(trace).total_ms, best_partition(trace)[1].total_ms
    assert planned < 1.5 * hindsight
