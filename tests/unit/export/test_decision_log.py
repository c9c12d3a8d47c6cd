"""The record of decisions is bounded, and each of its files can be replayed by itself."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.process import eventually
from worker.core.health import HealthState
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


@pytest.mark.skipif(
    sys.platform == "win32", reason="there nobody moves a file that is open, or cuts it short"
)
@pytest.mark.parametrize("how", ["moved", "removed", "cut short"])
def test_another_program_turns_it_over(tmp_path: Path, how: str) -> None:
    """As what rotates logs does: what comes next is in a file of that name, which can be replayed by itself."""
    path, moved = tmp_path / "decisions.jsonl", tmp_path / "decisions.jsonl.2"
    log = DecisionLog(path)
    log.record(decision(DecisionKind.LOAD, "m0", 0))
    log.record(decision(DecisionKind.USE, "m0", 1))
    eventually(lambda: b'"use"' in path.read_bytes(), "a record")
    if how == "moved":
        path.rename(moved)
    elif how == "removed":
        path.unlink()
    else:
        os.truncate(path, 0)
    log.record(decision(DecisionKind.USE, "m0", 2))
    log.close()
    (trace,) = read_traces(path.read_text().splitlines()).values()
    assert list(trace.uses) == ["m0"]
    assert set(trace.models) == {"m0"}
    assert moved.exists() == (how == "moved")


@pytest.mark.skipif(sys.platform == "win32", reason="there nobody removes a folder whose file is open")
def test_a_folder_that_is_gone_ends_the_record(tmp_path: Path) -> None:
    """What would be written then nobody finds: it is told as no longer recorded."""
    path = tmp_path / "folder" / "decisions.jsonl"
    path.parent.mkdir()
    log = DecisionLog(path)
    log.record(decision(DecisionKind.LOAD, "m0", 0))
    eventually(lambda: b'"load"' in path.read_bytes() or b'"models"' in path.read_bytes(), "a record")
    shutil.rmtree(path.parent)
    log.record(decision(DecisionKind.USE, "m0", 1))
    log.close()
    (health,) = log.health()
    assert health.state is HealthState.FAILED
    assert "No such file or directory" in str(health.reason)
