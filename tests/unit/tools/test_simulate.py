"""Replay, and the offline optimum against brute force."""

import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import EvictionStrategy as Strategy
from worker.tools.simulate.lines import TraceError
from worker.tools.simulate.optimum import offline_optimum
from worker.tools.simulate.replay import ReplayCost, replay, replay_all
from worker.tools.simulate.trace import Change, ChangeKind, Recorded, Trace, TraceModel
from worker.tools.simulate.trace_file import read_traces

HEADER = '{"models": {"a": {"size_bytes": 4, "load_ms": 10}, "b": {"size_bytes": 6, "load_ms": 20}}, "capacity_bytes": 8}'


def read_trace(lines: Iterable[str], capacity_bytes: int | None = None) -> Trace:
    """Read a trace of one device."""
    (trace,) = read_traces(lines, capacity_bytes).values()
    return trace


def brute_force(trace: Trace) -> int:
    """Try every set of survivors at every use."""
    states: dict[frozenset[str], int] = {frozenset(): 0}
    for model_id in trace.uses:
        following: dict[frozenset[str], int] = {}
        for resident, cost in states.items():
            spent = cost + (0 if model_id in resident else trace.models[model_id].load_ms)
            others = sorted(resident - {model_id})
            for count in range(len(others) + 1):
                for kept in itertools.combinations(others, count):
                    state = frozenset((*kept, model_id))
                    if sum(trace.models[one].size_bytes for one in state) <= trace.capacity_bytes:
                        following[state] = min(spent, following.get(state, spent))
        states = following
    return min(states.values(), default=0)


@st.composite
def traces(draw: st.DrawFn, *, equal: bool, longest: int = 14) -> Trace:
    names = "abcde"[: draw(st.integers(2, 5))]
    size = st.just(3) if equal else st.integers(1, 9)
    models = {name: TraceModel(draw(size), draw(st.integers(0, 50))) for name in names}
    largest = max(model.size_bytes for model in models.values())
    uses = draw(st.lists(st.sampled_from(names), max_size=longest))
    return Trace(models, draw(st.integers(largest, largest + 12)), tuple(uses))


@given(traces(equal=True))
@settings(max_examples=150, deadline=None)
def test_equal_sizes_are_solved_exactly_without_a_solver(trace: Trace) -> None:
    """Brute force agrees with the flow."""
    best = offline_optimum(trace)
    assert best.proven
    assert best.method in {"all models fit", "nothing to keep", "minimum-cost flow"}
    assert best.reload_ms == brute_force(trace)


@given(traces(equal=False))
@settings(max_examples=80, deadline=None)
def test_unequal_sizes_are_solved_exactly(trace: Trace) -> None:
    """Brute force agrees with the integer program."""
    pytest.importorskip("highspy")
    best = offline_optimum(trace)
    assert best.proven
    assert best.reload_ms == brute_force(trace)


@given(st.booleans().flatmap(lambda equal: traces(equal=equal, longest=60)))
@settings(max_examples=60, deadline=None)
def test_no_policy_is_below_the_optimum(trace: Trace) -> None:
    """Whether it is exact or a bound; and no policy loads less than each model once."""
    best = offline_optimum(trace)
    for cost in replay_all(trace).values():
        assert cost.reload_ms >= best.reload_ms
        assert len(set(trace.uses)) <= cost.loads <= len(trace.uses)
        assert cost.evictions <= cost.loads


def test_without_the_solver_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marked as one, and saying what would help."""

    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr("worker.tools.simulate.optimum.importlib.import_module", missing)
    best = offline_optimum(read_trace([HEADER, *['{"use": "a"}', '{"use": "b"}'] * 3]))
    assert 30 <= best.reload_ms <= 3 * 10 + 3 * 20  # the two never fit together
    assert not best.proven
    assert best.method == "bound by prices; install the extra 'optimum'"


def test_out_of_time_gives_a_bound() -> None:
    """No time at all: a bound that every policy is above."""
    pytest.importorskip("highspy")
    models = {f"m{index}": TraceModel(7 + 3 * index, 100 + index * index) for index in range(12)}
    uses = tuple(f"m{(index * index + 3 * index) % 13 % 12}" for index in range(400))
    trace = Trace(models, 90, uses)
    bound = offline_optimum(trace, 0.0)
    assert not bound.proven
    assert bound.method == "bound of an integer program, out of time"
    assert bound.reload_ms <= min(cost.reload_ms for cost in replay_all(trace).values())


def test_replay_counts_loads_and_evictions() -> None:
    """Two models that exclude each other, used in turn."""
    cost = replay(read_trace([HEADER, *['{"use": "a"}', '{"use": "b"}'] * 2]), Strategy.LRU)
    assert (cost.reload_ms, cost.loads, cost.evictions) == (60, 4, 3)


def test_a_recorded_log_is_read_as_it_is() -> None:
    """Decisions between the uses are skipped, blank lines, CRLF and a BOM do not matter."""
    lines = [
        "\ufeff" + HEADER + "\r\n",
        "\n",
        '{"use": "a", "t_ms": 5, "device_id": "cpu"}\r\n',
        '{"evict": "a", "reason": "unloaded: last used 5 ms ago"}',
        '{"load": "b", "load_ms": 21}',
        '{"models": {"c": {"size_bytes": 1, "load_ms": 2}}, "capacity_bytes": 1}',
        '{"use": "c"}',
    ]
    trace = read_trace(lines)
    assert trace.uses == ("a", "c")
    assert trace.capacity_bytes == 8
    assert trace.models["c"] == TraceModel(1, 2)


def test_each_device_has_its_own_trace() -> None:
    """Capacities and figures are a device's; one changes from its line on, and not for what was used before."""
    lines = [
        '{"models": {"x": {"size_bytes": 9, "load_ms": 9}}, "devices": {"sim:0": {"capacity_bytes": 30}}}',
        '{"capacity_bytes": 50, "device_id": "sim:1", "t_ms": 1}',
        '{"models": {"a": {"size_bytes": 4, "load_ms": 1}}, "device_id": "sim:0"}',
        '{"models": {"a": {"size_bytes": 5, "load_ms": 2}}, "device_id": "sim:1"}',
        '{"use": "a", "t_ms": 2, "device_id": "sim:0"}',
        '{"use": "a", "t_ms": 3, "device_id": "sim:1"}',
        '{"capacity_bytes": 20, "device_id": "sim:0", "t_ms": 4}',
        '{"use": "x", "t_ms": 5, "device_id": "sim:0"}',
    ]
    first, second = read_traces(lines).values()
    assert (first.capacity_bytes, second.capacity_bytes) == (30, 50)
    assert (first.models["a"], second.models["a"]) == (TraceModel(4, 1), TraceModel(5, 2))
    assert (first.uses, second.uses) == (("a", "x"), ("a",))
    assert first.times == (2, 5)
    assert first.changes == (
        Change(ChangeKind.MEASURED, 0, None, "a", load_ms=1),
        Change(ChangeKind.CAPACITY, 1, 4, capacity_bytes=20),
    )
    assert first.capacity_falls and not second.capacity_falls
    assert {each.capacity_bytes for each in read_traces(lines, 9).values()} == {9}


def timed(*lines: str, keep_alive_ms: int = 100, capacity: int = 20) -> Trace:
    model = {"size_bytes": 10, "load_ms": 7}
    head = {"models": {"a": model | {"keep_alive_ms": keep_alive_ms}, "b": model, "c": model}}
    return read_trace([json.dumps(head | {"capacity_bytes": capacity}), *lines])


@pytest.mark.parametrize(
    ("lines", "loads"),
    [
        (['{"use": "a", "t_ms": 0}', '{"use": "a", "t_ms": 99}', '{"use": "a", "t_ms": 198}'], 1),
        (['{"use": "a", "t_ms": 0}', '{"use": "a", "t_ms": 100}', '{"use": "a", "t_ms": 200}'], 3),
        (['{"use": "a"}', '{"use": "a"}'], 1),
        (['{"use": "b", "t_ms": 0}', '{"use": "b", "t_ms": 999}'], 1),
        (
            ['{"use": "a", "t_ms": 0}', '{"keep": "a", "keep_alive_ms": -1, "t_ms": 0}', '{"use": "a", "t_ms": 999}'],
            1,
        ),
        (
            ['{"use": "a", "t_ms": 0}', '{"keep": "a", "keep_alive_ms": null, "t_ms": 100}', '{"use": "a", "t_ms": 101}'],
            2,
        ),
        (
            ['{"use": "a", "t_ms": 0}', '{"lease": "a", "t_ms": 0}', '{"release": "a", "t_ms": 500}', '{"use": "a", "t_ms": 599}'],
            1,
        ),
        (
            ['{"use": "a", "t_ms": 0}', '{"lease": "a", "t_ms": 0}', '{"release": "a", "t_ms": 500}', '{"use": "a", "t_ms": 600}'],
            2,
        ),
        (['{"use": "b"}', '{"evict": "b", "cause": "asked"}', '{"use": "b"}'], 2),
        (['{"use": "b"}', '{"evict": "b", "cause": "policy"}', '{"use": "b"}'], 1),
        (['{"use": "b"}', '{"evict": "b", "cause": "lost"}', '{"use": "b"}'], 2),
    ],
)  # fmt: skip
def test_what_happens_whatever_the_policy(lines: list[str], loads: int) -> None:
    """Keep-alives run from the last use or the lease's end, what was asked for is done, what a policy did is not."""
    trace = timed(*lines)
    costs = replay_all(trace)
    assert {cost.loads for cost in costs.values()} == {loads}
    assert offline_optimum(trace).reload_ms == 7 * loads


def test_what_is_pinned_or_leased_is_not_evicted() -> None:
    """The other one goes; where none may, what is used is loaded and not kept."""
    keep, lease = '{"keep": "a", "pinned": true}', '{"lease": "b"}'
    lines = ['{"use": "a"}', keep, '{"use": "b"}', '{"use": "c"}', '{"use": "a"}', '{"use": "b"}']
    assert replay(timed(*lines), Strategy.LRU).loads == 4
    lines = [
        '{"use": "a"}',
        keep,
        '{"use": "b"}',
        lease,
        *['{"use": "c"}'] * 3,
        '{"use": "a"}',
        '{"use": "b"}',
    ]
    assert replay(timed(*lines), Strategy.LRU) == ReplayCost(35, 5, 0)


def test_a_capacity_that_changes() -> None:
    """What fitted before stays until something is loaded; the optimum is a bound where it falls."""
    less, more = '{"capacity_bytes": 10, "device_id": "d"}', '{"capacity_bytes": 30, "device_id": "d"}'
    head = ['{"models": {}, "devices": {"d": {"capacity_bytes": 20}}}']
    head += [json.dumps({"models": {name: {"size_bytes": 10, "load_ms": 7}}}) for name in "abc"]
    a, b, c = (json.dumps({"use": name}) for name in "abc")
    trace = read_trace([*head, a, b, less, a, b, c, a, more, b, c, a, b, c])
    assert replay(trace, Strategy.LRU).loads == 6
    best = offline_optimum(trace)
    assert not best.proven and best.reload_ms <= replay(trace, Strategy.LRU).reload_ms
    rising = read_trace([*head, a, b, c, a, more, b, c, a, b, c])
    assert offline_optimum(rising).reload_ms <= replay(rising, Strategy.LRU).reload_ms


def test_what_was_recorded_is_counted() -> None:
    """Loads and evictions of the log, at the figures that every policy is charged."""
    lines = [
        '{"load": "b"}',
        '{"use": "b"}',
        '{"evict": "b", "cause": "idle"}',
        '{"load": "b"}',
        '{"use": "b"}',
    ]
    assert timed(*lines).recorded == Recorded(14, 2, 1)
    assert timed('{"use": "b"}').recorded is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: the trace is empty"),
        (["\n", "{"], "line 2: not JSON: "),
        (["[1]"], "line 1: not a JSON object"),
        (['{"use": "a"}'], 'line 1: the first line must be {"models": {...}, "capacity_bytes": N}'),
        (['{"models": {}}'], "line 1: capacity_bytes must be an integer of at least 1, not None"),
        (
            ['{"models": {}, "capacity_bytes": true}'],
            "line 1: capacity_bytes must be an integer of at least 1",
        ),
        (['{"models": {"a": 3}, "capacity_bytes": 1}'], "line 1: model 'a' must be {"),
        (
            ['{"models": {"a": {"size_bytes": 0, "load_ms": 1}}, "capacity_bytes": 1}'],
            "line 1: size_bytes of model 'a' must be an integer of at least 1, not 0",
        ),
        (
            ['{"models": {"a": {"size_bytes": 1, "load_ms": -1}}, "capacity_bytes": 1}'],
            "line 1: load_ms of model 'a' must be an integer of at least 0, not -1",
        ),
        ([HEADER, '{"use": 7}'], "line 2: use must be a model id, not 7"),
        ([HEADER, "", '{"use": "z"}'], "line 3: model 'z' was not declared"),
        ([HEADER, '{"use": "a", "t_ms": "x"}'], "line 2: t_ms must be an integer of at least 0, not 'x'"),
    ],
)
def test_errors_name_the_line(lines: list[str], message: str) -> None:
    """What is wrong, and where."""
    with pytest.raises(TraceError) as caught:
        read_trace(lines)
    assert str(caught.value).startswith(message)


def test_a_model_above_the_capacity_names_its_first_use() -> None:
    """Also where the capacity comes from the command line; an unused one does not matter."""
    lines = [HEADER, '{"use": "a"}', '{"use": "b"}']
    with pytest.raises(TraceError, match=r"^line 3: model 'b' takes 6 bytes, the capacity is 5$"):
        read_trace(lines, 5)
    assert read_trace(lines[:2], 5).capacity_bytes == 5
