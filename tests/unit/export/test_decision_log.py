"""The record of decisions is bounded, and each of its files can be replayed by itself."""

from pathlib import Path

from worker.core.records import Decision, DecisionKind
from worker.export.decision_log import DecisionLog
from worker.tools.simulate.trace_file import read_traces


def decision(kind: DecisionKind, model_id: str, at: int) -> Decision:
    reason = "unloaded: last used 5 ms ago" if kind is DecisionKind.EVICT else None
    return Decision(kind, model_id, "cpu", at, 1000, 20, 5000, reason)


def test_it_turns_over_at_its_limit_and_both_files_are_traces(tmp_path: Path) -> None:
    """The record is bounded by turning over, and each of its files can be replayed by itself."""
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path, max_bytes=2000)
    for at in range(100):
        model_id = f"m{at % 3}"
        if at < 3:
            log.record(decision(DecisionKind.LOAD, model_id, at))
        log.record(decision(DecisionKind.USE, model_id, at))
        log.record(decision(DecisionKind.EVICT, "m0", at))
    log.close()
    assert {each.name for each in tmp_path.iterdir()} == {"decisions.jsonl", "decisions.jsonl.1"}
    for each in tmp_path.iterdir():
        assert each.stat().st_size < 2500
        (trace,) = read_traces(each.read_text().splitlines()).values()
        assert trace.capacity_bytes == 5000
        assert trace.uses
        assert set(trace.models) == {"m0", "m1", "m2"}


def test_a_disk_that_is_full_stops_the_record_not_the_worker(tmp_path: Path) -> None:
    """A write that fails ends the record without an error to whoever decides."""
    log = DecisionLog(Path("/dev/full"))
    for at in range(10):
        log.record(decision(DecisionKind.USE, "m0", at))
    log.close()
