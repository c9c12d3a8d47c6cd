"""The strategies: their orders, their words, and how adaptive finds the one that fits."""

import random
from collections import Counter

import pytest

from protocol.vocabulary import EvictionStrategy as Strategy
from worker.eviction.planner import Candidate
from worker.eviction.policies import CostAware, LargestFirst, LeastFrequentlyUsed, LeastRecentlyUsed
from worker.eviction.shadow_caches import Adaptive
from worker.eviction.state import EvictionState
from worker.eviction.use_history import FOLLOWERS, GAPS, UseHistory
from worker.tools.simulate.replay import replay
from worker.tools.simulate.trace import Trace, TraceModel

DEVICE = "sim:0"


def state_after(
    *uses: str, sizes: dict[str, int] | None = None, load_ms: dict[str, int] | None = None
) -> EvictionState:
    """Use models in an order, one every 100 ms, each loaded at its first use and never evicted."""
    state = EvictionState(1000)
    for index, model_id in enumerate(uses):
        state.record_use(model_id, 100 * index)
        if model_id not in uses[:index]:
            state.record_load(model_id, (sizes or {}).get(model_id, 10), (load_ms or {}).get(model_id, 50))
    return state


def order(state: EvictionState, strategy: Strategy, *models: Candidate) -> list[str]:
    ranking = state.ranking(strategy, 1000)
    return [one.model_id for one in sorted(models, key=ranking.worth)]


def candidates(*names: str) -> list[Candidate]:
    return [Candidate(name, DEVICE, 10) for name in names]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.LRU, ["b", "c", "a"]),
        (Strategy.LFU, ["b", "a", "c"]),
        (Strategy.LARGEST_FIRST, ["c", "b", "a"]),
        (Strategy.COST_AWARE, ["c", "b", "a"]),
    ],
)
def test_each_strategy_has_its_order(strategy: Strategy, expected: list[str]) -> None:
    """a: used last; b: used once; c: used most, and large."""
    uses = ("a", "b", "c", "c", "c", "a")
    state = state_after(*uses, sizes={"a": 5, "b": 6, "c": 100}, load_ms={"a": 50, "b": 50, "c": 50})
    assert order(state, strategy, *candidates("a", "b", "c")) == expected


def test_priority_comes_before_recency() -> None:
    """A higher priority stays; within one, the last use decides."""
    state = state_after("a", "b", "c")
    models = [
        Candidate("a", DEVICE, 10, priority=5),
        Candidate("b", DEVICE, 10, priority=1),
        Candidate("c", DEVICE, 10, priority=1),
    ]
    assert order(state, Strategy.PRIORITY, *models) == ["b", "c", "a"]


def test_cost_aware_keeps_what_is_dear_to_reload() -> None:
    """Of two models used alike, the one cheaper a byte goes."""
    state = state_after("dear", "cheap", load_ms={"dear": 5000, "cheap": 50})
    assert order(state, Strategy.COST_AWARE, *candidates("cheap", "dear")) == ["cheap", "dear"]


def test_the_clock_lets_old_fame_fade() -> None:
    """After a dear victim, a model used once stands above one that was popular before."""
    history, policy = UseHistory(), CostAware()
    for name, load_ms in (("popular", 30), ("victim", 500), ("new", 30)):
        history.sized(name, 10)
        history.loaded(name, 10, load_ms)
    for _ in range(3):
        policy.used(history.used("popular", None), history)
    policy.used(history.used("victim", None), history)
    policy.evicted(history.models["victim"])
    policy.used(history.used("new", None), history)
    popular, new = history.models["popular"], history.models["new"]
    assert policy.worth(popular, history) == pytest.approx(9.0)
    assert policy.worth(new, history) == pytest.approx(53.0)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Strategy.LRU, "last used 900 ms ago"),
        (Strategy.LFU, "used once, last used 900 ms ago"),
        (Strategy.LARGEST_FIRST, "10 bytes, last used 900 ms ago"),
        (Strategy.PRIORITY, "priority 3, last used 900 ms ago"),
        (Strategy.COST_AWARE, "used once, last used 900 ms ago, reload 50 ms for 10 bytes"),
        (
            Strategy.ADAPTIVE,
            "used once, last used 900 ms ago, reload 50 ms for 10 bytes (adaptive, mostly by reuse_forecast)",
        ),
    ],
)
def test_each_strategy_gives_its_reason(strategy: Strategy, reason: str) -> None:
    """In the figures that it looked at."""
    state = state_after("a", "b")
    assert state.ranking(strategy, 1000).because(Candidate("b", DEVICE, 10, priority=3)) == reason


def test_reasons_do_without_what_is_unknown() -> None:
    """No clock, no measured load, no use, and a model that nobody recorded."""
    state = EvictionState(1000)
    state.record_use("a", None)
    state.record_load("a", 10, None)
    state.record_use("b", 5)
    state.record_load("quiet", 10, 7)
    known = state.ranking(Strategy.COST_AWARE, 6)
    assert known.because(Candidate("a", DEVICE, 10)) == (
        "used once, last used 1 uses ago, reload not measured for 10 bytes"
    )
    assert (
        known.because(Candidate("quiet", DEVICE, 10)) == "used 0 times, never used, reload 7 ms for 10 bytes"
    )
    stranger = Candidate("stranger", DEVICE, 10, 40)
    assert known.because(stranger) == "used 0 times, never used, reload 40 ms for 10 bytes"
    for strategy in Strategy:
        assert state.ranking(strategy, None).worth(stranger) < (float("inf"),)


def trace(uses: list[str], places: int) -> Trace:
    return Trace({name: TraceModel(10, 100) for name in uses}, 10 * places, tuple(uses))


def test_adaptive_leaves_lru_in_a_cycle() -> None:
    """A cycle one longer than the room: LRU loads at every use, adaptive nearly as seldom as can be."""
    uses = [f"m{index % 6}" for index in range(900)]
    assert replay(trace(uses, 5), Strategy.LRU).loads == 900
    assert replay(trace(uses, 5), Strategy.ADAPTIVE).loads < 300


def test_adaptive_stays_with_lru_in_bursts() -> None:
    """Four sessions at a time, each with one model for a while: frequency has nothing to say."""
    rng = random.Random(5)
    sessions = [rng.randrange(16) for _ in range(4)]
    uses = []
    for _ in range(1500):
        session = rng.randrange(4)
        uses.append(f"m{sessions[session]}")
        if rng.random() < 0.05:
            sessions[session] = rng.randrange(16)
    lru = replay(trace(uses, 5), Strategy.LRU)
    assert replay(trace(uses, 5), Strategy.ADAPTIVE).reload_ms <= 1.1 * lru.reload_ms
    assert replay(trace(uses, 5), Strategy.LFU).reload_ms > 2 * lru.reload_ms


def test_adaptive_learns_what_is_popular() -> None:
    """Independent skewed use: better than LRU by a tenth at least."""
    rng = random.Random(6)
    uses = rng.choices([f"m{index}" for index in range(16)], [1 / (index + 1) for index in range(16)], k=1200)
    lru = replay(trace(uses, 6), Strategy.LRU)
    assert replay(trace(uses, 6), Strategy.ADAPTIVE).reload_ms < 0.9 * lru.reload_ms


def test_only_adaptive_tells_losses_that_add_up() -> None:
    """The worth of all bytes; every other strategy is an order."""
    state = state_after("a", "b")
    candidate = Candidate("a", DEVICE, 10)
    for strategy in Strategy:
        ranking = state.ranking(strategy, None)
        adds_up = strategy is Strategy.ADAPTIVE
        assert ranking.loss(candidate) == (10 * ranking.worth(candidate)[0] if adds_up else None)


def test_a_large_model_does_not_go_for_each_small_one() -> None:
    """Beside small ones of skewed popularity, which make room for one another: 0.75 of LRU's time, 0.83 by worth alone."""
    rng = random.Random(10)
    small = [f"m{index:02}" for index in range(20)]
    popularity = [1 / (index + 1) for index in range(20)]
    uses = ["large" if rng.random() < 0.1 else rng.choices(small, popularity)[0] for _ in range(1200)]
    models = {"large": TraceModel(80, 800), **dict.fromkeys(small, TraceModel(10, 300))}
    mixed = Trace(models, 160, tuple(uses))
    lru = replay(mixed, Strategy.LRU).reload_ms
    assert replay(mixed, Strategy.ADAPTIVE).reload_ms < 0.79 * lru


def test_no_single_load_turns_the_tables() -> None:
    """Use without any pattern: however lucky a shadow is, the weights move a little at a time, and add up to one."""
    rng = random.Random(7)
    history, adaptive = UseHistory(), Adaptive((LeastRecentlyUsed(), LargestFirst()), 60)
    before = adaptive._weights[0]
    for _ in range(2000):
        name = f"m{rng.randrange(12)}"
        history.sized(name, 10)
        adaptive.used(history.used(name, None), history)
        lru, largest = adaptive._weights
        assert abs(lru - before) < 0.2 and lru + largest == pytest.approx(1)
        before = lru


def test_the_first_is_believed_until_others_save_several_loads() -> None:
    """Skewed use: the shadow by frequency is soon cheaper, and leads once it has saved about eight loads."""
    rng = random.Random(3)
    history, adaptive = UseHistory(), Adaptive((LeastRecentlyUsed(), LeastFrequentlyUsed()), 30)
    lru, lfu = adaptive.shadows
    ahead, leads_from = [], None
    for index, name in enumerate(rng.choices("abcdefghij", [1 / rank for rank in range(1, 11)], k=600)):
        history.loaded(name, 10, 100)
        adaptive.used(history.used(name, None), history)
        ahead.append(lru.recent_ms - lfu.recent_ms)
        if leads_from is None and adaptive.leader == "lfu":
            leads_from = index
    assert leads_from is not None and 0 < max(ahead[:leads_from]) <= 800 <= ahead[leads_from] < 900


def test_shadows_follow_the_capacity() -> None:
    """Where everything fits, a shadow loads each model once; where room shrinks, it loads again."""
    state = EvictionState(30)
    for name in "abcabcabc":
        state.record_use(name, None)
        state.record_load(name, 10, 100)
    before = state.shadow_reload_ms["lru"]
    state.set_capacity(10)
    for name in "abc":
        state.record_use(name, None)
    assert state.shadow_reload_ms["lru"] - before in {200, 300}


def test_a_model_above_the_capacity_spoils_no_shadow() -> None:
    """It is charged and not kept; the others stay."""
    state = EvictionState(10)
    state.record_size("big", 99)
    state.record_size("small", 10)
    for name in ("small", "big", "small"):
        state.record_use(name, None)
        state.record_load(name, 99 if name == "big" else 10, 100)
    assert state.leader == "reuse_forecast"
    assert len(set(state.shadow_reload_ms.values())) == 1


def test_the_same_uses_give_the_same_costs() -> None:
    """No chance, no clock: twice the same."""
    rng = random.Random(8)
    uses = [f"m{rng.randrange(10)}" for _ in range(400)]
    assert replay(trace(uses, 4), Strategy.ADAPTIVE) == replay(trace(uses, 4), Strategy.ADAPTIVE)


def test_history_is_bounded_by_the_models() -> None:
    """Many uses of many models: so much a model, and no more."""
    history = UseHistory()
    rng = random.Random(9)
    for _ in range(5000):
        history.used(f"m{rng.randrange(150)}", None)
    assert len(history.models) == 150
    assert max(len(model.followers) for model in history.models.values()) <= FOLLOWERS
    assert max(len(model.gaps) for model in history.models.values()) <= GAPS
    assert Counter(model.count for model in history.models.values()).total() == 150


def test_long_cycles_do_not_blow_up_the_forecast() -> None:
    """Thousands of uses that teach nothing new leave every worth finite."""
    state = EvictionState(50)
    for index in range(6000):
        name = f"m{index % 6}"
        state.record_use(name, None)
        state.record_load(name, 10, 100)
    worths = [
        state.ranking(Strategy.ADAPTIVE, None).worth(Candidate(f"m{index}", DEVICE, 10)) for index in range(6)
    ]
    assert all(0 < worth[0] < float("inf") for worth in worths)
    assert state.shadow_reload_ms["reuse_forecast"] < state.shadow_reload_ms["lru"] / 3
