"""The planner: who goes, who stays, and the reason that each is given."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import UnloadMode
from worker.eviction.planner import Candidate, EvictionPlan, Need, choose, plan_eviction

DEVICE = "sim:0"


class ByWorth:
    """Ranks as the test says; a model it does not know is worth nothing."""

    def __init__(self, **worth: float) -> None:
        self._worth = worth

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        return (self._worth.get(candidate.model_id, 0.0),)

    def loss(self, _candidate: Candidate) -> float | None:
        """Say that this is an order alone."""
        return None

    def because(self, candidate: Candidate) -> str:
        return f"worth {self._worth.get(candidate.model_id, 0.0):g}"


class ByLoss(ByWorth):
    """The same order, of worths by the byte, which add up."""

    def loss(self, candidate: Candidate) -> float:
        return candidate.size_bytes * self.worth(candidate)[0]


def model(model_id: str, size_bytes: int = 10, **figures: object) -> Candidate:
    return Candidate(model_id, str(figures.pop("device_id", DEVICE)), size_bytes, **figures)


def plan(
    candidates: list[Candidate], free_bytes: int, *, worth: ByWorth | None = None, **need: object
) -> EvictionPlan:
    return plan_eviction(candidates, Need(DEVICE, free_bytes, **need), worth or ByWorth())


def gone(result: EvictionPlan) -> list[str]:
    return [victim.model_id for victim in result.victims]


def why(result: EvictionPlan) -> dict[str, str]:
    reasons = {one.model_id: one.reason for one in result.victims}
    return reasons | {one.model_id: one.reason for one in result.survivors}


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (model("x", device_id="cpu", pinned=True), "stays: it is on cpu, memory is needed on sim:0"),
        (model("x", excluded=True, in_use=1), "stays: excluded by the request"),
        (model("x", in_use=1, pinned=True), "stays: in use by 1 lease"),
        (model("x", in_use=2), "stays: in use by 2 leases"),
        (model("x", 0, pinned=True), "stays: pinned"),
        (model("x", 0), "stays: it holds no memory on this device"),
    ],
)
def test_what_may_not_go_says_why(candidate: Candidate, reason: str) -> None:
    """Steps 1 to 6, in their order, and forced or not."""
    for forced in (False, True):
        result = plan([candidate, model("y")], 10, forced=forced)
        assert gone(result) == ["y"]
        assert why(result)["x"] == reason
        assert result.ceiling_bytes == 10


def test_nothing_goes_where_nothing_is_needed() -> None:
    """Step 7."""
    result = plan([model("x")], 0, forced=True)
    assert (gone(result), result.meetable, result.freed_bytes, result.reload_ms) == ([], True, 0, 0)
    assert why(result) == {"x": "stays: nothing has to be freed"}


def test_a_need_above_the_ceiling_evicts_nobody() -> None:
    """Step 8."""
    result = plan([model("x"), model("y", pinned=True)], 11)
    assert (gone(result), result.meetable, result.ceiling_bytes) == ([], False, 10)
    assert why(result) == {
        "x": "stays: evicting would not help, 11 bytes are needed and at most 10 can be freed",
        "y": "stays: pinned",
    }


def test_a_limit_of_models_is_part_of_the_ceiling() -> None:
    """Step 8: two of three would do, one cannot."""
    result = plan([model("x", 4), model("y", 6), model("z", 5)], 7, max_models=1)
    assert (gone(result), result.ceiling_bytes) == ([], 6)
    text = "stays: evicting would not help, 7 bytes are needed and at most 6 can be freed with 1 models"
    assert why(result)["x"] == text
    assert plan([model("x")], 1, max_models=0).ceiling_bytes == 0


def test_forced_frees_what_can_be_freed() -> None:
    """Step 8: and still says that the need is not met."""
    result = plan([model("x"), model("y"), model("z", in_use=1)], 100, forced=True)
    assert (sorted(gone(result)), result.meetable, result.freed_bytes) == (["x", "y"], False, 20)


def test_expired_models_go_first_then_the_lowest_worth() -> None:
    """Step 9."""
    candidates = [model("a"), model("b"), model("c", expired=True), model("d", expired=True)]
    result = plan(candidates, 30, worth=ByWorth(a=1, b=2, c=9, d=8))
    assert gone(result) == ["d", "c", "a"]
    assert why(result) == {
        "d": "unloaded: idle past its keep-alive, worth 8",
        "c": "unloaded: idle past its keep-alive, worth 9",
        "a": "unloaded: worth 1",
        "b": "stays: enough is freed without it, worth 2",
    }


def test_equals_go_by_id() -> None:
    """Step 9: the order of the candidates does not matter."""
    assert gone(plan([model("b"), model("a")], 1)) == gone(plan([model("a"), model("b")], 1)) == ["a"]


def test_small_ones_are_passed_over_where_only_so_many_may_go() -> None:
    """Step 10."""
    candidates = [model("small", 1), model("big", 8), model("other", 5)]
    result = plan(candidates, 9, worth=ByWorth(small=0, other=1, big=2), max_models=2)
    assert gone(result) == ["small", "big"]
    assert gone(plan(candidates, 10, worth=ByWorth(small=0, other=1, big=2), max_models=2)) == [
        "other",
        "big",
    ]


def test_superfluous_victims_are_spared() -> None:
    """Step 12."""
    result = plan([model("a", 2), model("b", 3), model("c", 10)], 10, worth=ByWorth(a=0, b=1, c=2))
    assert gone(result) == ["c"]
    assert why(result)["a"] == "stays: enough is freed without it, worth 0"


def test_a_small_need_takes_no_large_model_where_a_small_one_loses_less() -> None:
    """Step 11: by the byte the large one is worth less, in all much more. An order alone takes the first in it."""
    candidates = [model("large", 100), model("small", 10)]
    assert gone(plan(candidates, 10, worth=ByLoss(large=1, small=3))) == ["small"]
    assert gone(plan(candidates, 10, worth=ByWorth(large=1, small=3))) == ["large"]


def test_the_last_victim_ends_the_order_at_the_best_place() -> None:
    """Step 11: after the cheapest by the byte, what frees the rest for the least, and not the next one."""
    candidates = [model("a", 6), model("large", 80), model("b", 5), model("c", 5)]
    result = plan(candidates, 10, worth=ByLoss(a=1, large=2, b=3, c=4))
    assert gone(result) == ["a", "b"]
    assert why(result)["large"] == "stays: enough is freed without it, worth 2"


def test_bytes_beyond_the_need_are_worth_something() -> None:
    """Step 11: of two that lose about the same, the larger leaves space for the next load."""
    candidates = [model("larger", 15), model("smaller", 10)]
    assert gone(plan(candidates, 10, worth=ByLoss(larger=1, smaller=1.2))) == ["larger"]
    assert gone(plan(candidates, 10, worth=ByLoss(larger=1, smaller=1.1))) == ["smaller"]


def test_what_is_idle_past_its_keep_alive_loses_nothing() -> None:
    """Step 11: it goes whatever it is worth, and however large it is."""
    candidates = [model("old", 100, expired=True), model("small", 10)]
    assert gone(plan(candidates, 10, worth=ByLoss(old=9, small=0.1))) == ["old"]


def test_offloads_the_longest_reload_while_the_host_has_room() -> None:
    """Steps 13 and 14."""
    candidates = [
        model("slow", reload_ms=900, restore_ms=90, offloadable=True),
        model("quick", reload_ms=100, restore_ms=10, offloadable=True),
        model("plain", reload_ms=500),
    ]
    result = plan(candidates, 30, host_headroom_bytes=15)
    assert {one.model_id: (one.mode, one.reload_ms) for one in result.victims} == {
        "slow": (UnloadMode.OFFLOAD, 90),
        "quick": (UnloadMode.UNLOAD, 100),
        "plain": (UnloadMode.UNLOAD, 500),
    }
    assert (result.offloaded_bytes, result.freed_bytes, result.reload_ms) == (10, 30, 690)
    assert why(result) == {
        "slow": "offloaded to host memory: worth 0",
        "quick": "unloaded, no headroom to offload it: worth 0",
        "plain": "unloaded: worth 0",
    }


def test_an_unmeasured_reload_is_not_guessed() -> None:
    """One unknown makes the sum unknown; a restore that was never measured is not the reload."""
    assert plan([model("a", reload_ms=5), model("b")], 20).reload_ms is None
    assert plan([model("a", reload_ms=5, offloadable=True)], 5, host_headroom_bytes=10).reload_ms is None


flags = st.integers(0, 9).map(lambda value: value == 0)
any_model = st.builds(
    Candidate,
    model_id=st.text("abcdefgh", min_size=1, max_size=3),
    device_id=st.sampled_from([DEVICE, DEVICE, DEVICE, "cpu"]),
    size_bytes=st.integers(0, 50),
    reload_ms=st.none() | st.integers(0, 1000),
    restore_ms=st.none() | st.integers(0, 100),
    in_use=st.sampled_from([0, 0, 0, 1, 3]),
    pinned=flags,
    excluded=flags,
    expired=st.booleans(),
    offloadable=st.booleans(),
)
any_models = st.lists(any_model, max_size=10, unique_by=lambda one: one.model_id)
any_need = st.builds(
    Need,
    device_id=st.just(DEVICE),
    free_bytes=st.integers(-5, 200),
    max_models=st.none() | st.integers(0, 6),
    forced=st.booleans(),
    host_headroom_bytes=st.integers(0, 80),
)
any_worth = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.floats(0, 9), max_size=10)


any_ranking = st.sampled_from([ByWorth, ByLoss])


@given(any_models, any_need, any_ranking, any_worth)
@settings(max_examples=400, deadline=None)
def test_every_plan_keeps_its_word(
    candidates: list[Candidate], need: Need, ranking: type[ByWorth], worth: dict[str, float]
) -> None:
    """Whatever the models and the need: fenced, sufficient, never too much, everybody accounted for."""
    result = plan_eviction(candidates, need, ranking(**worth))
    by_id = {one.model_id: one for one in candidates}
    victims = [by_id[victim.model_id] for victim in result.victims]
    for one in victims:
        assert one.device_id == need.device_id
        assert not (one.pinned or one.excluded or one.in_use)
    assert result.freed_bytes == sum(one.size_bytes for one in victims)
    assert need.max_models is None or len(victims) <= need.max_models
    assert sorted(gone(result) + [one.model_id for one in result.survivors]) == sorted(by_id)
    assert all(why(result).values())
    assert result.offloaded_bytes <= need.host_headroom_bytes
    assert all(by_id[one.model_id].offloadable for one in result.victims if one.mode is UnloadMode.OFFLOAD)
    assert result.meetable == (result.ceiling_bytes >= need.free_bytes)
    if result.meetable:
        assert result.freed_bytes >= need.free_bytes
    elif need.forced:
        assert result.freed_bytes == result.ceiling_bytes
    else:
        assert victims == []
    if victims and result.meetable:
        assert result.freed_bytes - need.free_bytes < min(one.size_bytes for one in victims)


@given(any_models, any_need, any_ranking, any_worth)
@settings(max_examples=100, deadline=None)
def test_the_order_of_candidates_does_not_matter(
    candidates: list[Candidate], need: Need, ranking: type[ByWorth], worth: dict[str, float]
) -> None:
    """The same models give the same victims in the same order."""
    forward = plan_eviction(candidates, need, ranking(**worth))
    backward = plan_eviction(candidates[::-1], need, ranking(**worth))
    assert forward.victims == backward.victims


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_a_limit_is_met_where_any_choice_meets_it(sizes: list[int], data: st.DataObject) -> None:
    """Step 10 never runs into a corner, and 11 takes no more than it may."""
    limit = data.draw(st.integers(1, len(sizes)))
    need = data.draw(st.integers(1, sum(sorted(sizes)[-limit:])))
    worths = sorted(data.draw(st.lists(st.floats(0, 9), min_size=len(sizes), max_size=len(sizes))))
    losses = [size * worth for size, worth in zip(sizes, worths, strict=True)]
    picked = choose(sizes, need, limit, data.draw(st.sampled_from([None, losses])))
    assert len(picked) <= limit
    assert sum(sizes[index] for index in picked) >= need


def test_what_engines_keep_beside_their_models_goes_before_any_model() -> None:
    """Where it is enough: the cheapest byte first, no more than is needed, and nothing of what may not be touched."""
    slow = model("slow", 40, shrinkable_bytes=30, shrink_ms=300)
    quick = model("quick", 40, shrinkable_bytes=20, shrink_ms=2)
    used = model("used", 40, shrinkable_bytes=30, in_use=1)
    result = plan([slow, quick, used, model("plain", 50)], 15)
    assert [(one.model_id, one.mode, one.freed_bytes) for one in result.victims] == [
        ("quick", UnloadMode.SHRINK, 20)
    ]
    assert result.meetable
    assert (result.freed_bytes, result.reload_ms) == (20, 0)
    assert why(result)["plain"] == "stays: enough is given back by engines, without it"
    assert why(result)["used"] == "stays: in use by 1 lease"
    assert gone(plan([slow, quick, used], 45)) == ["quick", "slow"]
    assert {one.mode for one in plan([slow, quick, used], 51).victims} == {UnloadMode.UNLOAD}
    assert {one.mode for one in plan([slow, quick], 45, max_models=1, forced=True).victims} == {
        UnloadMode.UNLOAD
    }
