"""Records that no worker wrote: whatever is in one, ``report`` and ``top`` have a page, a screen, or a sentence."""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from worker.tools.report.command import main as report
from worker.tools.top.command import main as top

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 10**400, 1e308, "x" * 200, "\u202e\x1b[31m", [], [[]], [None], {}, {"a": {}}, "2026-01-01T00:00:00Z",
)  # fmt: skip
GOOD: tuple[dict[str, Any], ...] = (
    {"models": {"m": {"size_bytes": 5, "load_ms": 1}}, "capacity_bytes": 9, "worker_version": "1", "pid": 7,
     "started": "2026-01-01T00:00:00Z", "t_ms": 0},
    {"sample": "cpu", "t_ms": 1, "state": "available", "pressure_level": "high", "total_bytes": 9, "budget_bytes": 9,
     "available_bytes": 3, "allocated_bytes": 1, "peak_bytes": 2, "model_bytes": 1,
     "signals": [{"name": "budget_used_percentage", "value": 90.0, "level": "high"}],
     "trend": {"bytes_per_second": 1.0, "seconds_to_exhaustion": 2.0, "low_seconds": 1.0, "high_seconds": None},
     "owners": [{"owner": "o", "allocated_bytes": 1, "allocation_count": 1, "made_bytes": 1, "made_count": 1}]},
    {"load": "m", "device_id": "cpu", "t_ms": 2},
    {"use": "m", "device_id": "cpu", "t_ms": 3},
    {"evict": "m", "device_id": "cpu", "t_ms": 4, "reason": "why"},
    {"model_states": [{"model_id": "m", "state": "loaded", "device_id": "cpu", "bytes": 5, "pinned": False, "in_use": 0,
                       "use_count": 1, "keep_alive_ms": 1, "expires_in_ms": 5}], "t_ms": 5},
    {"event": "memory.pressure_changed", "t_ms": 6,
     "data": {"device_id": "cpu", "from": "low", "to": "high", "pressure_percentage": 1.0, "available_bytes": 1}},
    {"refused": "memory.allocate", "code": "out_of_memory", "reason": "why", "t_ms": 7},
    {"done": "memory.clear", "count": 1, "t_ms": 8},
    {"actions": [{"action": "a", "count": 1, "errors": 0, "mean_us": 1, "p50_us": 1, "p99_us": 1, "max_us": 1}],
     "t_ms": 9},
    {"dropped": 3},
    {"end": True, "t_ms": 10},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this process's own: the view takes them over for as long as it lives."""
    monkeypatch.setattr("worker.tools.top.command.signal.signal", lambda *_: None)


def places(value: Any) -> list[tuple[Any, ...]]:
    """Return the way to everything in a line."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(key, *rest) for key, each in inside for rest in ((), *places(each))]


def spoiled(line: dict[str, Any], place: tuple[Any, ...], by: Any) -> dict[str, Any]:
    """Return a line with something else in one place."""
    copy: Any = json.loads(json.dumps(line))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = by
    return dict(copy)


def is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Have both commands read a record: 0, or 2 with a sentence."""
    for show in (lambda: report([str(path)]), lambda: top(["--record", str(path), "--once"])):
        code = show()
        printed = capsys.readouterr()
        assert code in {0, 2}
        assert bool(printed.err) == (code == 2)
        assert "Traceback" not in printed.err
        assert len(printed.err.splitlines()) <= 1
        assert "\x1b[31m" not in printed.out + printed.err


def test_anything_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value of every line is replaced by every odd one, many at a time, in an order that is always the same."""
    pytest.importorskip("rich")
    every = list(itertools.product(range(len(GOOD)), HOSTILE))
    chosen = random.Random(5)
    path = tmp_path / "r.jsonl"
    for turn in range(60):
        lines = [json.dumps(line) for line in GOOD]
        for index, by in chosen.sample(every, 1 + turn % 8):
            lines.insert(index, json.dumps(spoiled(GOOD[index], chosen.choice(places(GOOD[index])), by)))
        path.write_text("\n".join(lines) + "\n")
        is_shown(path, capsys)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"[" * 100_000, b'{"t_ms": 1}\n' + b"\xff\xfe" * 500, b'{"t_ms": 1, "sample": "' + b"x" * 10**6]
)  # fmt: skip
def test_what_is_no_record_at_all(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, zeros, nesting without end, bytes that are no text, half a line."""
    pytest.importorskip("rich")
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    is_shown(path, capsys)


def test_a_line_without_an_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is longer than any record's is passed over in pieces; what follows it is read."""
    pytest.importorskip("rich")
    for module in ("report.recording", "top.sources"):
        monkeypatch.setattr(f"worker.tools.{module}.MAX_LINE", 1000)
    monkeypatch.setattr("worker.tools.top.sources._CHUNK_BYTES", 300)
    path = tmp_path / os.fsdecode(b"r\xff.jsonl")
    long = json.dumps({"sample": "x" * 5000, "t_ms": 1})
    path.write_text("\n".join([long, *map(json.dumps, GOOD)]) + "\n")
    assert report([str(path)]) == 0
    assert top(["--record", str(path), "--once"]) == 0
    assert "xxxx" not in capsys.readouterr().out
    page = path.with_suffix(".html").read_text()
    assert "xxxx" not in page
    assert "r\\xff.jsonl" in page
