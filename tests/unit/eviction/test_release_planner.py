"""Who gives memory back: by one price across all consumers, within every limit, and never dearer than one alone."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.consumers import MIB, Holding, Offer, Quote, front_of
from worker.eviction.planner import Candidate, Need, plan_eviction
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import ReleasePlan, plan_releases

CPU = "cpu"


class ByCost:
    """The cheapest model a byte goes first."""

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        return (candidate.cost_ms / max(1, candidate.size_bytes),)

    def loss(self, _candidate: Candidate) -> None: ...

    def because(self, _candidate: Candidate) -> str:
        return "cheap"


class ByName:
    """As a strategy that knows better than the price."""

    def worth(self, _candidate: Candidate) -> tuple[float, ...]:
        return (0,)

    def loss(self, _candidate: Candidate) -> float | None:
        return None

    def because(self, candidate: Candidate) -> str:
        return f"{candidate.model_id} comes first"


class ByOwnLoss(ByName):
    """As a strategy whose worths add up and have nothing to do with the price: the first names are worth least."""

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        return (ord(candidate.model_id[-1]) - ord("0"),)

    def loss(self, candidate: Candidate) -> float:
        return candidate.size_bytes * self.worth(candidate)[0]


def cache(name: str, held: int, *offers: tuple[int, float], floor: int = 0, **more: object) -> Quote:
    """Return a consumer of so many MiB; each offer is of MiB at a cost."""
    given = tuple(Offer(size * MIB, cost, "", divisible=True) for size, cost in offers)
    return Quote(name, "cache", CPU, Holding(held * MIB, floor * MIB), given, **more)


def model(name: str, size: int, cost: float, **more: object) -> Candidate:
    """Return a model of so many MiB."""
    return Candidate(name, CPU, size * MIB, cost_ms=cost, **more)


def plan(quotes: list[Quote], models: list[Candidate], need: int, **more: int | bool) -> ReleasePlan:
    """Plan for so many MiB."""
    return plan_releases(quotes, models, ReleaseNeed(CPU, need * MIB, **more), ByCost())


# ---- what is offered ----


@pytest.mark.parametrize("offers", [((0, 0.0), (20, 2.0)), ((0, 5.0), (20, 2.0)), ((20, 2.0), (0, 0.0))])
def test_an_offer_of_nothing_is_passed_over(offers: tuple[tuple[int, float], ...]) -> None:
    """Such as a consumer in this process makes of an empty part: what else it offers counts."""
    (release,) = plan([cache("c", 100, *offers)], [], 10).releases
    assert (release.bytes, release.cost_ms) == (10 * MIB, 1.0)
    assert not plan([cache("c", 100, (0, 0.0))], [], 10).meetable


@pytest.mark.parametrize(
    ("kept", "offers", "missing"),
    [
        (0.9, ((4, 1.0),), 1024003),
        (0.9, ((2, 1.0), (4, 2.0)), 2881230),
        (0.7, ((2, 1.0), (3, 2.0), (2, 3.0)), 4129982),
        (0.999, ((1, 1.0), (4, 2.0), (3, 3.0)), 5292105),
    ],
)
def test_no_one_is_asked_for_nothing(
    kept: float, offers: tuple[tuple[int, float], ...], missing: int
) -> None:
    """What is left of reckoning with shares of bytes is no byte that is missing, for which an owner would be waited for."""
    quotes = [cache("cheap", 10, *offers, expected_yield=kept), cache("dear", 100, (100, 500.0))]
    need = ReleaseNeed(CPU, 20 * MIB + missing)
    made = plan_releases(quotes, [model("m", 20, 1.0)], need, ByCost())
    assert [each.consumer_id for each in made.releases] == ["cheap"]
    assert [each.model_id for each in made.eviction.victims] == ["m"]
    assert made.releases[0].expected_bytes >= missing


# ---- the order, and the words ----


def test_the_cheapest_byte_goes_first_whoevers_it_is() -> None:
    """Offers of several consumers and models are taken by their price, each from its front."""
    quotes = [cache("dear", 100, (50, 500.0)), cache("cheap", 100, (20, 2.0), (20, 400.0))]
    made = plan(quotes, [model("m", 30, 60.0)], 50)
    assert [(each.consumer_id, each.bytes) for each in made.releases] == [("cheap", 20 * MIB)]
    assert [each.model_id for each in made.eviction.victims] == ["m"]
    assert made.cost_ms == pytest.approx(62.0)


def test_each_that_goes_and_each_that_stays_says_why() -> None:
    """The price of what goes and of what would go next are in the reason; what stays names the limit that holds it."""
    quotes = [
        cache("responses", 100, (64, 19.2), (36, 900.0)), cache("all floor", 10, (10, 1.0), floor=10),
        replace(cache("elsewhere", 10, (10, 1.0)), device_id="sim:0"), cache("nothing", 10),
        cache("mute", 10, (10, 1.0), silent="it did not answer"), cache("liar", 10, (10, 0.0), expected_yield=0.0),
        cache("dearer", 10, (10, 500.0)),
    ]  # fmt: skip
    made = plan(quotes, [model("b", 100, 410.0)], 64)
    assert [each.reason for each in made.releases] == [
        "responses: 64 MiB at 0.3 ms/MiB, before model b at 4.1 ms/MiB"
    ]
    assert [(each.consumer_id, each.price_ms_per_mib, each.reason) for each in made.why_kept()] == [
        ("dearer", 50.0, "stays: enough is freed without it, at 50 ms/MiB"),
        ("all floor", None, f"stays: of its {10 * MIB} bytes {10 * MIB} are its floor and 0 in use"),
        ("nothing", None, "stays: it offers nothing"),
        ("mute", None, "stays: it did not answer"),
        ("liar", None, "stays: nothing came back of what it promised before"),
        ("elsewhere", None, "stays: it is on sim:0, memory is needed on cpu"),
    ]
    assert [each.reason for each in made.eviction.survivors] == [
        "stays: what is needed is had for less from responses"
    ]


def test_what_is_cheaper_and_too_little_is_named_as_such() -> None:
    """It can't be said that the dearer goes before it: without it the dearer is enough, with it more would go."""
    small, large = cache("small", 20, (20, 2.0)), cache("large", 50, (50, 100.0))
    large = replace(large, offers=(replace(large.offers[0], divisible=False),))
    (release,) = plan([small, large], [], 50).releases
    assert release.reason == "large: 50 MiB at 2 ms/MiB, enough without small at 0.1 ms/MiB"


def test_where_nothing_goes_each_says_why_and_what_it_costs() -> None:
    """The need cannot be met, by the device or below the worker's own cap; what idle allocations give counts."""
    dear, cheap = cache("dear", 20, (20, 40.0)), cache("cheap", 20, (20, 2.0))
    pool = replace(cache("pool:cpu", 30, (30, 0.0)), counted=True)
    idle = replace(cache("idle", 10, (10, 0.0)), allocated=True)

    def why(need: int, own: int = 0) -> dict[str, tuple[float | None, str]]:
        made = plan([dear, cheap, pool, idle], [model("m", 5, 1.0)], need, models_bytes=own * MIB)
        return {each.consumer_id: (each.price_ms_per_mib, each.reason) for each in made.why_kept()}

    short = f"stays: {100 * MIB} bytes are needed and at most {55 * MIB} can be had"
    assert why(100) == {
        "pool:cpu": (0.0, short), "idle": (0.0, short), "cheap": (0.1, short), "dear": (2.0, short),
    }  # fmt: skip
    assert why(100, 10) == why(100)
    own = "stays: only the worker's own models can free what is missing below its cap"
    assert why(15, 15) == {"pool:cpu": (0.0, own), "cheap": (0.1, own), "dear": (2.0, own)}
    enough = "stays: idle allocations of the worker's own are enough"
    assert why(10, 10) == {"pool:cpu": (0.0, enough), "cheap": (0.1, enough), "dear": (2.0, enough)}
    assert why(0)["cheap"] == (0.1, "stays: nothing has to be freed")


def test_only_what_is_needed_is_asked_for() -> None:
    """A divisible offer is asked for in part, at its share of the cost; one that is not goes whole."""
    made = plan([cache("c", 100, (80, 8.0))], [], 20)
    assert (made.releases[0].bytes, made.cost_ms) == (20 * MIB, pytest.approx(2.0))
    whole = cache("c", 100, (80, 8.0))
    whole = replace(whole, offers=(replace(whole.offers[0], divisible=False),))
    made = plan([whole], [], 20)
    assert (made.releases[0].bytes, made.cost_ms) == (80 * MIB, pytest.approx(8.0))


def test_a_promise_counts_for_what_came_back_of_earlier_ones() -> None:
    """Of a consumer that gives half of what it says, twice as much is asked, at twice the price."""
    half = cache("half", 100, (40, 40.0), expected_yield=0.5)
    made = plan([half], [], 10)
    assert (made.releases[0].bytes, made.releases[0].expected_bytes) == (20 * MIB, 10 * MIB)
    assert made.cost_ms == pytest.approx(20.0)
    made = plan([half], [model("m", 10, 15.0)], 10)
    assert not made.releases
    assert [each.model_id for each in made.eviction.victims] == ["m"]


def test_what_is_kept_for_reuse_goes_first_and_meets_none_of_the_need() -> None:
    """It counts as headroom already: all of it goes whenever anything has to, and nothing where nothing has to."""
    pool = replace(cache("pool:cpu", 30, (30, 0.0)), kind="pool", counted=True)
    made = plan([cache("c", 20, (20, 5.0)), pool], [], 20)
    assert [(each.consumer_id, each.bytes) for each in made.releases] == [
        ("pool:cpu", 30 * MIB), ("c", 20 * MIB),
    ]  # fmt: skip
    assert not plan([pool], [model("m", 10, 1.0)], 0).releases
    assert not plan([pool], [], 20).meetable


def test_a_cap_of_our_own_is_relieved_by_our_own_models_alone() -> None:
    """What a host gives back is no headroom below a cap of the worker's own, however cheap it is."""
    free = cache("free", 100, (100, 0.0))
    made = plan([free], [model("m", 30, 100.0)], 30, models_bytes=30 * MIB)
    assert not made.releases
    assert [each.model_id for each in made.eviction.victims] == ["m"]
    made = plan([free], [model("m", 30, 100.0)], 50, models_bytes=10 * MIB)
    assert [(each.consumer_id, each.bytes) for each in made.releases] == [("free", 20 * MIB)]
    assert not plan([free], [model("m", 5, 1.0)], 50, models_bytes=10 * MIB).meetable


def test_what_an_engine_keeps_goes_by_its_own_price_and_counts_once() -> None:
    """The model stays where that is enough; both together are no more than the model with it; below a cap, it is the model's."""
    arena = Quote("engine:m", "engine", CPU, Holding(30 * MIB), (Offer(30 * MIB, 1.0, ""),))
    loaded = model("m", 50, 100.0, shrinkable_bytes=30 * MIB)
    small = plan([arena], [loaded], 20)
    assert [each.consumer_id for each in small.releases] == ["engine:m"]
    assert small.eviction.victims == ()
    assert plan([arena], [loaded], 40).meetable
    assert plan([arena], [loaded], 50).ceiling_bytes == 50 * MIB
    assert not plan([arena], [loaded], 60).meetable
    capped = plan([arena], [loaded], 50, models_bytes=50 * MIB)
    assert (capped.meetable, capped.releases) == (True, ())


def test_models_alone_are_planned_as_ever() -> None:
    """Without other consumers the plan is the eviction plan itself, to the word."""
    models = [
        model("a", 10, 5.0),
        model("b", 20, 1.0, pinned=True),
        model("c", 30, 9.0, in_use=1),
        model("d", 9, 7.0),
    ]
    for need in (0, 5, 12, 19, 40):
        ours = plan_releases([], models, ReleaseNeed(CPU, need * MIB), ByName())
        assert ours.eviction == plan_eviction(models, Need(CPU, need * MIB), ByName())


def test_a_single_model_that_is_enough_and_cheaper_goes_instead() -> None:
    """Where the strategy would have others asked, one model that costs less than that goes before all others."""
    models = [model("a", 10, 100.0), model("z", 10, 1.0)]
    made = plan_releases([cache("c", 10, (10, 50.0))], models, ReleaseNeed(CPU, 10 * MIB), ByName())
    assert not made.releases
    assert [each.model_id for each in made.eviction.victims] == ["z"]


def test_models_go_in_their_order_beside_others_and_by_their_losses_alone() -> None:
    """Beside others as the division was reckoned with; alone as the strategy has it, and at the cost of that."""
    models = [model("m0", 4, 4.0), model("m1", 30, 300.0), model("m2", 6, 60.0)]
    need = ReleaseNeed(CPU, 10 * MIB)
    alone = plan_releases([], models, need, ByOwnLoss())
    assert ([each.model_id for each in alone.eviction.victims], alone.cost_ms) == (["m0", "m2"], 64.0)
    beside = plan_releases([cache("c", 6, (6, 6.0))], models, need, ByOwnLoss())
    assert ([each.model_id for each in beside.eviction.victims], beside.cost_ms) == (["m0"], 10.0)
    dearer = plan_releases([cache("c", 6, (6, 61.0))], models, need, ByOwnLoss())
    assert (dearer.releases, dearer.eviction.victims) == ((), alone.eviction.victims)


# ---- for all consumers ----

sizes, costs = st.integers(1, 40), st.floats(0, 1000, allow_nan=False)


@st.composite
def quotes(draw: st.DrawFn) -> list[Quote]:
    """Return consumers as they come: with floors, in use, lying, silent, elsewhere."""
    found = []
    for index in range(draw(st.integers(0, 6))):
        held = draw(st.integers(0, 120))
        offers = tuple(
            Offer(draw(sizes) * MIB, draw(costs), "", draw(st.booleans()))
            for _ in range(draw(st.integers(0, 4)))
        )
        holding = Holding(held * MIB, draw(st.integers(0, held)) * MIB, draw(st.integers(0, held)) * MIB)
        share = draw(st.sampled_from([1.0, 1.0, 0.5, 0.0]))
        found.append(
            Quote(
                f"c{index}",
                "cache",
                draw(st.sampled_from([CPU, CPU, CPU, "sim:0"])),
                holding,
                offers,
                share,
                draw(st.sampled_from([None, None, None, "silent"])),
                front=front_of(offers, holding, 1.0, share) if index % 2 else None,
            )
        )
    return found


models = st.lists(
    st.builds(
        lambda size, cost, leases, pinned, expired: (size, cost, leases, pinned, expired),
        sizes, costs, st.sampled_from([0, 0, 0, 1]), st.sampled_from([False, False, True]), st.booleans(),
    ),
    max_size=5,
).map(
    lambda rows: [
        model(f"m{index}", size, cost, in_use=leases, pinned=pinned, expired=expired)
        for index, (size, cost, leases, pinned, expired) in enumerate(rows)
    ]
)  # fmt: skip
rankings = st.sampled_from([ByCost(), ByName(), ByOwnLoss()])
needs = st.builds(
    lambda need, own, forced: (need, min(need, own), forced),
    st.integers(0, 200),
    st.sampled_from([0, 0, 10]),
    st.booleans(),
)


@given(quotes(), models, needs, rankings)
def test_no_limit_is_crossed(
    offered: list[Quote], there: list[Candidate], need: tuple[int, int, bool], ranking: ByCost | ByName
) -> None:
    """No floor, use, lease, pin or other device is touched, nothing silent is asked, and what is said adds up."""
    wanted, own, forced = need
    made = plan_releases(offered, there, ReleaseNeed(CPU, wanted * MIB, own * MIB, forced=forced), ranking)
    by_id = {each.consumer_id: each for each in offered}
    for each in made.releases:
        quote = by_id[each.consumer_id]
        assert quote.device_id == CPU
        assert quote.silent is None and quote.expected_yield > 0
        assert 0 < each.bytes <= quote.holding.spare_bytes
        assert each.bytes == sum(offer.bytes for offer in each.offers)
        assert [offer.tag for offer in each.offers] == [
            offer.tag for offer in quote.offers[: len(each.offers)]
        ]
        for taken, stood in zip(each.offers, quote.offers, strict=False):
            assert taken.bytes == stood.bytes or (stood.divisible and taken.bytes < stood.bytes)
    fixed = {each.model_id for each in there if each.in_use or each.pinned}
    assert not fixed & {each.model_id for each in made.eviction.victims}
    freed = made.eviction.freed_bytes + sum(each.expected_bytes for each in made.releases)
    if made.meetable:
        assert freed >= wanted * MIB
        assert made.eviction.freed_bytes >= min(own, wanted) * MIB
    elif not forced:
        assert freed == 0
    told = [each.consumer_id for each in (*made.releases, *made.why_kept())]
    assert sorted(told) == sorted(each.consumer_id for each in offered if each.holding.held_bytes)
    assert made == replace(
        plan_releases(offered, there, ReleaseNeed(CPU, wanted * MIB, own * MIB, forced=forced), ranking),
        why_kept=made.why_kept,
    ), "the same figures give the same plan"


@given(quotes(), models, st.integers(1, 200), rankings)
def test_it_never_costs_more_than_the_cheapest_that_is_enough_alone(
    offered: list[Quote], there: list[Candidate], wanted: int, ranking: ByCost | ByName
) -> None:
    """One other consumer, the models by their strategy, or, where others are asked at all, any single model."""
    need = ReleaseNeed(CPU, wanted * MIB)
    made = plan_releases(offered, there, need, ranking)
    if not made.meetable:
        return
    alone = [plan_releases([each], [], need, ranking) for each in offered]
    costs = [each.cost_ms for each in alone if each.meetable]
    by_strategy = plan_releases([], there, need, ranking)
    costs += [by_strategy.cost_ms] if by_strategy.meetable else []
    if made.releases:
        fit = [each for each in there if not (each.in_use or each.pinned) and each.size_bytes >= wanted * MIB]
        costs += [each.cost_ms for each in fit]
    assert made.cost_ms <= min(costs, default=made.cost_ms) + 1e-6


@given(quotes(), st.integers(1, 200))
def test_the_order_of_consumers_does_not_change_what_it_costs(offered: list[Quote], wanted: int) -> None:
    """Prices decide, not who registered first; whole offers are another matter, for which one is cut off is chance."""
    offered = [
        replace(each, offers=tuple(replace(offer, divisible=True) for offer in each.offers))
        for each in offered
    ]
    need = ReleaseNeed(CPU, wanted * MIB)
    first = plan_releases(offered, [], need, ByCost()).cost_ms
    for other in list(permutations(offered))[:6]:
        assert plan_releases(list(other), [], need, ByCost()).cost_ms == pytest.approx(first)
