"""What other keep-alives, times to live and bounds would have cost."""

import json
import sys
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.vocabulary import EvictionStrategy as Strategy
from worker.tools.simulate import command as simulate_command
from worker.tools.simulate.consumer_replay import Rules, replay_planned
from worker.tools.simulate.consumer_trace import ConsumerTrace, Entry
from worker.tools.simulate.counterfactuals import consumers_what_if, models_what_if
from worker.tools.simulate.replay import replay_held
from worker.tools.simulate.trace_file import read_traces
from worker.tools.simulate.what_if import Change, Outcome, WhatIf, what_if

MODELS = {
    "models": {
        "a": {"size_bytes": 10, "load_ms": 100, "keep_alive_ms": 600_000},
        "b": {"size_bytes": 5, "load_ms": 50, "keep_alive_ms": 600_000},
    },
    "capacity_bytes": 15,
}


def lines(*uses: tuple[str, int]) -> list[str]:
    """Write a trace of models used at times in seconds."""
    return [json.dumps(MODELS), *(json.dumps({"use": name, "t_ms": 1000 * at}) for name, at in uses)]


def tried(result: WhatIf, what: str, value: int | None, consumer: str | None = None) -> Outcome:
    """Return what came of a change."""
    return dict(result.tried)[Change(what, value, consumer)]


def test_a_keep_alive_that_would_have_been_shorter_or_none() -> None:
    """Reloads, and bytes by the time for which they are held: until the keep-alive ends, not until the next use."""
    (trace,) = read_traces(lines(("a", 0), ("a", 400), ("b", 1100), ("a", 1200))).values()
    result = models_what_if(trace, Strategy.LRU, 0.05)
    # 0 to 1000 s a is there; b from 1100 s, a again at 1200 s.
    assert result.as_it_is == Outcome(3, 250, 10 * 1_000_000 + 5 * 100_000)
    assert tried(result, "keep_alive_ms", 600_000) == result.as_it_is
    assert tried(result, "keep_alive_ms", 300_000) == Outcome(4, 350, 10 * 600_000 + 5 * 100_000)
    assert tried(result, "keep_alive_ms", None) == Outcome(2, 150, 10 * 1_200_000 + 5 * 100_000)
    assert result.instead_of["keep_alive_ms"] == "600"


def test_what_is_recorded_to_have_gone_idle_goes_by_the_keep_alive_that_is_tried() -> None:
    """A recorded eviction by keep-alive is undone by a longer one; one that was asked for happens under all."""
    recorded = lines(("a", 0))
    recorded += [
        '{"evict": "a", "cause": "idle", "t_ms": 600000}',
        '{"load": "a"}',
        '{"use": "a", "t_ms": 700000}',
    ]
    recorded += ['{"evict": "a", "cause": "asked", "t_ms": 700001}', '{"use": "a", "t_ms": 700002}']
    (trace,) = read_traces(recorded).values()
    assert replay_held(trace, Strategy.LRU)[0].loads == 3
    result = models_what_if(trace, Strategy.LRU, 0)
    assert result.as_it_is.reloads == 3
    assert tried(result, "keep_alive_ms", 1_800_000).reloads == 2


def test_a_pin_outlasts_every_keep_alive() -> None:
    """What is pinned is not idle."""
    pinned = lines(("a", 0))
    pinned.insert(1, '{"keep": "a", "pinned": true}')
    pinned.append('{"use": "a", "t_ms": 90000000}')
    (trace,) = read_traces(pinned).values()
    result = models_what_if(trace, Strategy.LRU, 0)
    assert tried(result, "keep_alive_ms", 60_000).reloads == 1


def test_without_times_only_bounds_are_tried() -> None:
    """And nothing is said of how long anything was held."""
    (trace,) = read_traces([json.dumps(MODELS), '{"use": "a"}', '{"use": "b"}', '{"use": "a"}']).values()
    result = models_what_if(trace, Strategy.LRU, 0)
    assert result.as_it_is == Outcome(2, 150, None)
    assert {change.what for change, _ in result.tried} == {"capacity_bytes"}
    assert tried(result, "capacity_bytes", 14) == Outcome(3, 250, None)


def test_the_smallest_bound_within_a_regret() -> None:
    """Costs are told by a bound of 60 of 100 bytes as well, and of less not."""

    def replay(change: Change | None) -> Outcome:
        bound = 100 if change is None else change.value or 0
        return Outcome(1, 10.0 if bound >= 60 else 11.0, None)

    words = {"capacity_bytes": "100"}
    assert what_if(replay, 100, (), 0.05, words).smallest == (60, Outcome(1, 10.0, None))
    assert what_if(replay, 100, (), 0.10, words).smallest[0] == 1


def consumers(*uses: tuple[str, str, int]) -> ConsumerTrace:
    entries = {"x": {"a": Entry(10, 7.0), "b": Entry(10, 7.0)}, "y": {"c": Entry(5, 1.0)}}
    keys = tuple((consumer, name) for consumer, name, _ in uses)
    return ConsumerTrace(entries, 100, keys, tuple(1000 * at for *_, at in uses))


def test_a_time_to_live_counts_from_the_building_and_a_keep_alive_from_the_last_use() -> None:
    """Of one consumer or of all."""
    trace = consumers(("x", "a", 0), ("x", "a", 50), ("x", "a", 100), ("y", "c", 100), ("y", "c", 200))
    assert replay_planned(trace).rebuild_ms == {"x": 7.0, "y": 1.0}
    assert replay_planned(trace, Rules(ttl_ms=60_000)).rebuild_ms == {"x": 14.0, "y": 2.0}
    assert replay_planned(trace, Rules(idle_ms=60_000)).rebuild_ms == {"x": 7.0, "y": 2.0}
    only = replay_planned(trace, Rules(ttl_ms=60_000, consumer="x"))
    assert only.rebuild_ms == {"x": 14.0, "y": 1.0}
    # a: 0 to 60 s and 100 to 160 s; c: 100 to 200 s.
    assert only.held_byte_ms == 10 * 120_000 + 5 * 100_000
    result = consumers_what_if(trace, 0.05)
    assert tried(result, "ttl_ms", 60_000, "x") == Outcome(3, 15.0, only.held_byte_ms)
    assert result.smallest[0] <= 16


@settings(max_examples=40, deadline=None)
@given(
    uses=st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from("abcdefgh"), st.sampled_from((0, 20, 60, 240, 300)))
    ),
    capacity=st.integers(5, 90),
)
@example(uses=[("x", "a", 0), ("x", "a", 60)], capacity=50)  # just reached
def test_what_is_not_replayed_would_have_come_to_the_same(
    uses: list[tuple[str, str, int]], capacity: int
) -> None:
    """A keep-alive or a time to live that nothing reached, and memory beyond what all entries take, change nothing."""
    entries = {
        of: {name: Entry(8 + index, 5.0 + index) for index, name in enumerate("abcdefgh")} for of in "xy"
    }
    times = tuple(accumulate(1000 * seconds for *_, seconds in uses))
    trace = ConsumerTrace(entries, capacity, tuple((of, name) for of, name, _ in uses), times)
    for change, told in consumers_what_if(trace, 0.05).tried:
        changed, rules = trace, Rules()
        if change.what == "capacity_bytes":
            changed = replace(trace, capacity_bytes=change.value or 0)
        elif change.what == "keep_alive_ms":
            rules = Rules(idle_ms=change.value, consumer=change.consumer)
        else:
            rules = Rules(ttl_ms=change.value, consumer=change.consumer)
        cost = replay_planned(changed, rules)
        assert told == Outcome(cost.rebuilds, cost.total_ms, cost.held_byte_ms)


def test_the_command_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In sentences, and as JSON; of models and of consumers."""
    path = tmp_path / "models.jsonl"
    path.write_text("\n".join(lines(("a", 0), ("a", 400), ("b", 1100), ("a", 1200))), encoding="utf-8")
    assert simulate_command.main([str(path), "--what-if", "--policy", "lru", "--within", "0"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("as it is, 15 bytes: 3 reloads, 0.2 s, 0.0 GB·h held\n")
    assert (
        "\nkeep-alive 300 s instead of 600: 1 more reloads (+0.1 s), 0.0 GB·h less held\n"
        "keep-alive 600 s instead of 600: 0 more reloads (+0.0 s)" in told
    )
    assert "\nno keep-alive instead of 600: 1 fewer reloads (-0.1 s), 0.0 GB·h more held\n" in told
    assert "\nsmallest bound within 0%: " in told
    assert simulate_command.main([str(path), "--what-if", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["what_if"][""]
    assert printed["as_it_is"] == {"reloads": 3, "reload_ms": 250, "held_byte_ms": 10_500_000}
    assert printed["tried"][1]["more_held_byte_ms"] == -4_000_000
    assert printed["smallest_bound"]["within"] == 0.05
    header = {"consumers": {"x": {"entries": {"e": {"size_bytes": 10**9, "cost_ms": 1}}}}}
    uses = [{"consumer": "x", "use": "e", "t_ms": 3_600_000 * hour} for hour in range(3)]
    path.write_text("\n".join(map(json.dumps, [header | {"capacity_bytes": 10**9}, *uses])), encoding="utf-8")
    assert simulate_command.main([str(path), "--what-if"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("as it is, 1 GB: 1 reloads, 0.0 s, 2.0 GB·h held\n")
    assert "\nTTL 1800 s instead of none: 2 more reloads (+0.0 s), 1.0 GB·h less held\n" in told
    with pytest.raises(SystemExit) as caught:
        simulate_command.main([str(path), "--what-if", "--within", "-1"])
    assert caught.value.code == 2


def test_who_watches_is_told_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replay is announced on a terminal, on one line, and nowhere else."""
    path = tmp_path / "models.jsonl"
    path.write_text("\n".join(lines(("a", 0), ("b", 400))), encoding="utf-8")
    assert simulate_command.main([str(path), "--what-if"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert simulate_command.main([str(path), "--what-if"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("\rreplay 1 of at most 22 \rreplay 2 of at most 22 ")
    assert said.count("\n") == 1
