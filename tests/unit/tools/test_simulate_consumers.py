"""Traces of several consumers: replay through the planner, partitions, the optimum against brute force, the command."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.tools.simulate import command as simulate_command
from worker.tools.simulate.consumer_optimum import least_cost
from worker.tools.simulate.consumer_replay import replay_planned
from worker.tools.simulate.consumer_trace import ConsumerTrace, Entry, Key, read_consumer_trace
from worker.tools.simulate.interval_flow import Interval
from worker.tools.simulate.lines import TraceError
from worker.tools.simulate.optimum import most_saved
from worker.tools.simulate.partitions import best_partition, replay_equal, replay_lru
from worker.tools.simulate.price_bound import bound_by_prices

HEADER = json.dumps(
    {
        "consumers": {
            "kv": {"entries": {"s": {"size_bytes": 6, "cost_ms": 30}}},
            "r": {"entries": {"a": {"size_bytes": 4, "cost_ms": 2.5}, "b": {"size_bytes": 4, "cost_ms": 1}}},
        },
        "capacity_bytes": 8,
    }
)


def uses(text: str) -> list[str]:
    """Write a line for each of ``kv:s r:a``."""
    pairs = [word.split(":") for word in text.split()]
    return [json.dumps({"consumer": consumer, "use": entry}) for consumer, entry in pairs]


def brute_force(trace: ConsumerTrace) -> float:
    """Try every set of what is kept after every use; what was just built may be kept or not."""
    states: dict[frozenset[Key], float] = {frozenset(): 0.0}
    for key in trace.uses:
        following: dict[frozenset[Key], float] = {}
        for kept, cost in states.items():
            spent = cost + (0.0 if key in kept else trace.entry(key).cost_ms)
            everything = sorted({*kept, key})
            for count in range(len(everything) + 1):
                for some in itertools.combinations(everything, count):
                    if sum(trace.entry(each).size_bytes for each in some) <= trace.capacity_bytes:
                        state = frozenset(some)
                        following[state] = min(spent, following.get(state, spent))
        states = following
    return min(states.values())


@st.composite
def traces(draw: st.DrawFn, *, longest: int, largest: int = 9, equal: bool = False) -> ConsumerTrace:
    size = st.just(3) if equal else st.integers(1, largest)
    cost = st.integers(0, 50).map(float) | st.sampled_from([0.25, 7.5])
    entries = {
        consumer: {name: Entry(draw(size), draw(cost)) for name in "abc"[: draw(st.integers(1, 3))]}
        for consumer in ("x", "y")[: draw(st.integers(1, 2))]
    }
    keys = [(consumer, name) for consumer, own in entries.items() for name in own]
    order = draw(st.lists(st.sampled_from(keys), max_size=longest))
    return ConsumerTrace(entries, draw(st.integers(1, 14)), tuple(order))


@given(st.booleans().flatmap(lambda equal: traces(longest=10, equal=equal)))
@settings(max_examples=120, deadline=None)
def test_the_optimum_is_exact(trace: ConsumerTrace) -> None:
    """Brute force agrees, with entries above the capacity and costs that are no whole milliseconds."""
    pytest.importorskip("highspy")
    best = least_cost(trace, 30)
    assert best.proven
    assert best.rebuild_ms == pytest.approx(brute_force(trace))


@given(
    traces(longest=60, largest=2000).flatmap(lambda trace: st.tuples(st.just(trace), st.integers(1, 4000)))
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_below_the_optimum_or_its_bound(given_trace: tuple[ConsumerTrace, int]) -> None:
    """One planner, partitions, LRU; and each pays at least for the first use of everything."""
    first, capacity = given_trace
    trace = ConsumerTrace(first.entries, capacity, first.uses)
    least = least_cost(trace, 0).rebuild_ms
    once = sum(trace.entry(key).cost_ms for key in set(trace.uses))
    shares, hindsight = best_partition(trace)
    assert sum(shares.values()) <= capacity
    costs = [replay_planned(trace), hindsight, replay_lru(trace)]
    costs += [replay_equal(trace, replay) for replay in (replay_lru, replay_planned)]
    for cost in costs:
        assert cost.total_ms >= max(least, once) - 1e-6
        assert cost.rebuilds <= len(trace.uses)
        assert set(cost.rebuild_ms) == set(trace.entries)
    # The best partition's steps include none for all but one, and all for that: it is never above these.
    for consumer in trace.entries:
        alone = replay_lru(trace.of(consumer, capacity)).total_ms
        others = sum(trace.entry(key).cost_ms for key in trace.uses if key[0] != consumer)
        assert hindsight.total_ms <= alone + others + 1e-6


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(1, 9), st.integers(0, 40)), max_size=12
    ),
    st.lists(st.integers(0, 12), min_size=12, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_the_bound_by_prices_is_one(rows: list[tuple[int, int, int, int]], headroom: list[int]) -> None:
    """It is never below what intervals can be shown to save, and never above all of them."""
    pytest.importorskip("highspy")
    intervals = sorted(
        (Interval(min(a, b), max(a, b), size, saved) for a, b, size, saved in rows),
        key=lambda one: (one.first, one.last),
    )
    saved, proven, _ = most_saved(intervals, headroom, 30)
    assert proven
    assert saved <= bound_by_prices(intervals, headroom) <= sum(one.saved for one in intervals) + 1


def test_what_is_used_again_stays() -> None:
    """A session that comes back is kept; responses that are worth less, together with it, are not."""
    trace = read_consumer_trace([HEADER, *uses("kv:s r:a r:b " * 20)])
    cost = replay_planned(trace)
    assert cost.rebuild_ms["kv"] == 30
    assert cost.rebuild_ms["r"] == 20 * 3.5
    assert replay_lru(trace).total_ms == 20 * 33.5
    assert best_partition(trace)[0]["kv"] >= 6


def test_what_is_used_once_does_not_drive_out_what_is_used_often() -> None:
    """Of equal entries, a few that come back, and a stream of ones that do not: the few are kept, once that is known."""
    entries = {f"{index}": Entry(10, 5.0) for index in range(500)}
    often = {f"o{index}": Entry(10, 5.0) for index in range(4)}
    order = [
        key
        for index in range(500)
        for key in (("once", f"{index}"), ("often", f"o{index % 4}"), ("once", f"{499 - index}"))
    ]
    trace = ConsumerTrace({"once": entries, "often": often}, 60, tuple(order[:1000]))
    assert replay_planned(trace).rebuild_ms["often"] <= 3 * 4 * 5.0
    assert replay_lru(trace).rebuild_ms["often"] > 1000


def test_the_command_compares_arrangements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON and as a table: costs, the optimum, and each consumer's regret."""
    path = tmp_path / "consumers.jsonl"
    path.write_text("\n".join([HEADER, *uses("kv:s r:a r:b " * 5)]), encoding="utf-8")
    assert simulate_command.main([str(path), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert (printed["capacity_bytes"], printed["uses"]) == (8, 15)
    assert sorted(printed["arrangements"]) == [
        "equal_partitions",
        "hindsight_partition",
        "own_lru",
        "planner",
        "shared_lru",
    ]
    assert printed["arrangements"]["shared_lru"]["rebuild_ms"] == 5 * 33.5
    assert printed["optimum"]["rebuild_ms"] == 30 + 5 * 3.5
    assert printed["optimum"]["kind"] == "exact"
    kv = printed["consumers"]["kv"]
    assert (kv["entries"], kv["uses"], kv["regret_ms"]) == (1, 5, 0)
    assert kv["alone"]["rebuild_ms"] == 30 == kv["rebuild_ms"]["planner"]
    assert simulate_command.main([str(path), "--capacity-bytes", "14"]) == 0
    table = capsys.readouterr().out
    assert "planner                        0.034         3          0    1.000" in table
    assert "everything fits" in table and "\nkv " in table


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"consumers": [], "capacity_bytes": 1}'], "line 1: the first line must be {"),
        (['{"consumers": {}}'], "line 1: capacity_bytes must be an integer of at least 1, not None"),
        (['{"consumers": {"a": 3}, "capacity_bytes": 1}'], "line 1: consumer 'a' must be {"),
        (
            ['{"consumers": {"a": {"entries": {"e": null}}}, "capacity_bytes": 1}'],
            "line 1: the value of entry 'e' of 'a' must be {",
        ),
        (
            ['{"consumers": {"a": {"entries": {"e": {"size_bytes": 1, "cost_ms": NaN}}}}, "capacity_bytes": 1}'],
            "line 1: cost_ms of entry 'e' of 'a' must be a number of at least 0, not nan",
        ),
        (
            ['{"consumers": {"a": {"entries": {"e": {"size_bytes": -4, "cost_ms": 1}}}}, "capacity_bytes": 1}'],
            "line 1: size_bytes of entry 'e' of 'a' must be an integer of at least 1, not -4",
        ),
        ([HEADER, '{"consumer": "z", "use": "a"}'], "line 2: consumer 'z' was not declared"),
        ([HEADER, '{"consumer": ["r"], "use": "a"}'], "line 2: consumer ['r'] was not declared"),
        ([HEADER, '{"use": "a"}'], "line 2: consumer None was not declared"),
        ([HEADER, '{"consumer": "r", "use": {}}'], "line 2: entry {} of 'r' was not declared"),
        ([HEADER, '{"consumer": "r", "use": "a", "t_ms": -1}'], "line 2: t_ms must be an integer of at least 0"),
        ([HEADER, '{"consumers": 7}'], "line 2: consumers must be an object"),
        ([HEADER, "\0"], "line 2: not JSON: "),
    ],
)  # fmt: skip
def test_hostile_files_get_a_sentence(
    lines: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong, and where; nothing on stdout, exit code 2."""
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert simulate_command.main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"{path}: {message}")
    with pytest.raises(TraceError):
        read_consumer_trace(lines)


def test_lines_that_are_no_uses_are_passed_over() -> None:
    """Blank ones, unknown keys, and entries that are declared later."""
    more = '{"consumers": {"r": {"entries": {"c": {"size_bytes": 1, "cost_ms": 0}}}}}'
    trace = read_consumer_trace(["\ufeff" + HEADER, "", '{"note": 1}', more, *uses("r:c kv:s")], 5)
    assert trace.uses == (("r", "c"), ("kv", "s"))
    assert trace.capacity_bytes == 5
    assert replay_planned(trace).total_ms == 30
    assert least_cost(trace, 1).rebuild_ms == 30
