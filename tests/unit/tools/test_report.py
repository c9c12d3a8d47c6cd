"""What a record says is what the report has: lanes, samples, what happened, and nothing that a name could do."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools.report.command import main
from worker.tools.report.happenings import MAX_HAPPENINGS
from worker.tools.report.page import page_data, render
from worker.tools.report.recording import RecordingError, read_recording
from worker.tools.report.samples import MAX_SAMPLES

MIB = 2**20
HEADER = {
    "models": {}, "capacity_bytes": None, "worker_version": "1", "pid": 7,
    "started": "2026-01-01T00:00:00.000Z", "t_ms": 1000,
}  # fmt: skip


def sample(at: int, allocated: int, device_id: str = "cpu", **more: Any) -> dict[str, Any]:
    """Make a sample line."""
    owner = {
        "owner": "kv",
        "allocated_bytes": allocated,
        "allocation_count": 1,
        "made_bytes": 9,
        "made_count": 1,
    }
    line = {
        "sample": device_id, "t_ms": at, "state": "available", "pressure_level": "low", "total_bytes": 1000,
        "budget_bytes": 900, "limit_bytes": None, "reserve_bytes": 0, "used_bytes": 10, "process_used_bytes": 5,
        "available_bytes": 900 - allocated, "allocated_bytes": allocated, "peak_bytes": allocated,
        "external_bytes": 0, "model_bytes": 0, "cached_bytes": 0, "owners": [owner] if allocated else [],
    }  # fmt: skip
    return line | more


def lines(*rows: dict[str, Any]) -> list[str]:
    """Write lines."""
    return [json.dumps(row) for row in (HEADER, *rows)]


def test_lanes_come_from_decisions() -> None:
    """Loading ends where the load is told; the span ends with its reason; one that never ended is open."""
    recording = read_recording(
        lines(
            {"models": {"a": {"size_bytes": 5 * MIB, "load_ms": 300}}, "capacity_bytes": 9},
            {"load": "a", "t_ms": 2000, "device_id": "cpu"},
            {"use": "a", "t_ms": 2100, "device_id": "cpu"},
            {"evict": "a", "t_ms": 3000, "device_id": "cpu", "reason": "unloaded: last used 900 ms ago"},
            {"load": "a", "t_ms": 5000, "device_id": "sim:0"},
        )
    )
    (lane,) = page_data(recording)["models"]
    assert lane["spans"] == [
        [700, 1000, 2000, "cpu", 5 * MIB, "unloaded: last used 900 ms ago"],
        [3700, 4000, None, "sim:0", 5 * MIB, None],
    ]
    assert lane["uses"] == [1100]
    told = [(row.kind, row.title, row.reason) for row in recording.happenings.told()]
    assert told[1] == ("evict", "a went", "unloaded: last used 900 ms ago")


def test_what_happened_has_its_words_and_severity() -> None:
    """Levels, refusals, leases, limits and events unknown to this version are told."""
    event = "memory.pressure_changed"
    change = {"device_id": "cpu", "from": "high", "to": "critical", "pressure_percentage": 96.25}
    recording = read_recording(
        lines(
            sample(1100, 0),
            {"event": event, "t_ms": 1200, "data": change},
            {
                "refused": "memory.allocate",
                "t_ms": 1300,
                "device_id": "cpu",
                "code": "out_of_memory",
                "reason": "r",
            },
            {
                "refused": "memory.allocate",
                "t_ms": 1400,
                "device_id": "cpu",
                "code": "out_of_memory",
                "reason": "s",
            },
            sample(1500, 0, limit_bytes=500),
            {"done": "memory.clear", "t_ms": 1600, "count": 2},
            {"event": "memory.something_new", "t_ms": 1700, "data": {"device_id": "cpu", "confidence": 0.5}},
            {"event": "memory.model_unloaded", "t_ms": 1800, "data": {"model_id": "a"}},
        )
    )
    told = [(row.kind, row.title, row.reason, row.severity, row.count) for row in recording.happenings.told()]
    assert told == [
        ("level", "high → critical", "96.2 % of the budget in use, by all processes", 3, 1),
        ("refused", "memory.allocate failed: out_of_memory", "s", 2, 2),
        ("limit", "limit none → 500 B", "", 0, 1),
        ("done", "memory.clear was carried out", "", 0, 2),
        ("event", "memory.something_new", "confidence 0.5", 1, 1),
    ]
    assert page_data(recording)["devices"][0]["levels"] == [[100, "low"], [200, "critical"], [500, "low"]]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=3 * MAX_SAMPLES))
def test_a_long_record_is_thinned_and_keeps_its_extremes(sizes: list[int]) -> None:
    """However many samples there are, few are drawn, in order, and none of them hides the peak."""
    _holds_extremes(sizes)


def test_a_very_long_record() -> None:
    """The same for one that is thinned many times over, with one spike in it."""
    _holds_extremes([5] * 9_000 + [777] + [6] * 9_000)


def _holds_extremes(sizes: list[int]) -> None:
    recording = read_recording(lines(*(sample(1000 + at, size) for at, size in enumerate(sizes))))
    (device,) = page_data(recording)["devices"]
    assert len(device["t"]) <= MAX_SAMPLES
    assert all(one < two for one, two in pairwise(device["t"]))
    assert device["t"][-1] == len(sizes) - 1
    assert device["allocated_bytes"][-1] == sizes[-1]
    assert max(device["peak_bytes"]) == max(device["allocated_bytes"]) == max(sizes)
    assert min(device["available_bytes"]) == 900 - max(sizes)


def test_levels_lanes_and_uses_are_bounded() -> None:
    """A worker that went up and down for days still makes a page, with the worst of it in."""
    rows: list[dict[str, Any]] = [sample(1000, 1)]
    for at in range(2000, 12_000, 2):
        to = "critical" if at == 5000 else ("moderate", "high")[at // 2 % 2]
        rows.append({"event": "memory.pressure_changed", "t_ms": at, "data": {"device_id": "cpu", "to": to}})
        rows += [{"load": "a", "t_ms": at}, {"use": "a", "t_ms": at}, {"evict": "a", "t_ms": at + 1}]
    data = page_data(read_recording(lines(*rows)))
    levels = data["devices"][0]["levels"]
    assert len(levels) <= 2 * MAX_SAMPLES
    assert "critical" in {level for _, level in levels}
    assert len(data["models"][0]["spans"]) <= 2000
    assert len(data["models"][0]["uses"]) <= 4000


def test_what_is_severe_outlives_what_is_not() -> None:
    """Where there is more than a page takes, the mildest go, and the page says how many."""
    mild = [{"evict": f"m{at}", "t_ms": at, "reason": "r"} for at in range(3 * MAX_HAPPENINGS)]
    severe = {"event": "device.lost", "t_ms": 5, "data": {"device_id": "sim:0", "reason": "gone"}}
    recording = read_recording(lines(severe, *mild))
    told = recording.happenings.told()
    assert len(told) == MAX_HAPPENINGS
    assert told[0].kind == "lost"
    assert recording.happenings.left_out == 2 * MAX_HAPPENINGS + 1
    assert "are left out" in render(recording, "x")


def test_half_a_line_and_garbage_are_passed_over_and_counted() -> None:
    """A killed worker's record is a record."""
    torn = [*lines(sample(1100, 5)), '{"sample": "cpu", "t_m', "[]", "null", '{"sample": 5, "t_ms": 3}', ""]
    recording = read_recording(torn)
    assert recording.unreadable == 3
    assert not recording.ended
    assert "3 could not be read" in render(recording, "x")
    assert "its end is not in the record" in render(recording, "x")


@pytest.mark.parametrize("text", ["", "\n\n", "not json", '{"a": 1}', '{"use": "a"}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    """No time in it, no report."""
    with pytest.raises(RecordingError):
        read_recording(text.splitlines())


HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"&'


def test_names_cannot_do_anything() -> None:
    """Owners, models, reasons and file names come from outside: they are text, wherever they stand."""
    line = sample(1100, 7, device_id=HOSTILE)
    line["owners"][0]["owner"] = HOSTILE
    page = render(
        read_recording(
            lines(
                line,
                {"load": HOSTILE, "t_ms": 1200, "device_id": HOSTILE},
                {"evict": HOSTILE, "t_ms": 1300, "device_id": HOSTILE, "reason": HOSTILE},
                {"refused": HOSTILE, "t_ms": 1400, "code": HOSTILE, "reason": HOSTILE},
                {"actions": [{"action": HOSTILE, "count": 1, "errors": 0, "p50_us": 1}], "t_ms": 1500},
            )
        ),
        HOSTILE,
    )
    assert page.count("<script") == 2  # the data and ours
    assert "<img" not in page
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["devices"][0]["id"] == HOSTILE
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_the_command_reads_the_part_that_was_turned_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FILE.1 of the same worker is the beginning; of another it is another story."""
    record = tmp_path / "r.jsonl"
    record.write_text("\n".join(lines(sample(3000, 5))))
    earlier = tmp_path / "r.jsonl.1"
    earlier.write_text("\n".join(lines(sample(2000, 5))))
    assert main([str(record)]) == 0
    assert "4 lines read" in (tmp_path / "r.html").read_text(encoding="utf-8")
    earlier.write_text("\n".join(lines(sample(2000, 5))).replace('"pid": 7', '"pid": 8'))
    assert main([str(record), "-o", str(tmp_path / "o.html")]) == 0
    assert "2 lines read" in (tmp_path / "o.html").read_text(encoding="utf-8")
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("made", [Path.hardlink_to, Path.symlink_to, None])
@pytest.mark.parametrize("name", ["run.html", "run.html.1"])
def test_the_page_is_never_written_over_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, made: Callable[[Path, Path], None] | None
) -> None:  # fmt: skip
    """By whatever name: what was recorded can't be had again, also where the page would be called as the record is."""
    record = "\n".join(lines(sample(1000, 5)))
    for each in ("run.html", "run.html.1"):
        (tmp_path / each).write_text(record)
    out = tmp_path / name
    if made is not None:
        out = tmp_path / "other"
        made(out, tmp_path / name)
    assert main([str(tmp_path / "run.html"), "-o", str(out)]) == 2
    assert "it is the record itself" in capsys.readouterr().err
    assert main([str(tmp_path / "run.html")]) == 2
    assert {(tmp_path / each).read_text() for each in ("run.html", "run.html.1")} == {record}


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/.."])
def test_a_folder_is_no_record(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that has no name of its own."""
    assert main([name]) == 2
    assert "it is a folder" in capsys.readouterr().err or name == "a/.."


def _of_nodes(nodes: int) -> str:
    """Write the page of a fleet of which node 2 was nearly full for a while."""
    rows = [
        sample(1000 * second, 880 if (second, node, name) == (2, 2, "cuda:0") else 100 + node, f"node-{node}/{name}")
        for second in (1, 2, 3)
        for node in range(1, nodes + 1)
        for name in ("cpu", "cuda:0")
    ]  # fmt: skip
    return render(read_recording(lines(*rows)), "fleet")


def test_a_fleet_is_shown_by_its_nodes() -> None:
    """A line a node, the tightest first by what was the most in all the time; charts in the same order."""
    page = _of_nodes(3)
    assert "3 nodes, the tightest first" in page
    assert re.findall(r"<tr><td>(node-\d)</td><td>2</td>", page) == ["node-2", "node-3", "node-1"]
    assert "<td>cuda:0</td><td>98 %</td><td>880 B</td><td>900 B</td>" in page
    drawn = re.findall(r'"id":"(node-[^"]*)"', page)
    assert drawn == [
        "node-2/cuda:0",
        "node-2/cpu",
        *(f"node-{n}/{d}" for n in (3, 1) for d in ("cpu", "cuda:0")),
    ]


def test_of_many_nodes_the_tightest_are_drawn_and_the_others_unfold() -> None:
    """The page of a large fleet is no larger than can be looked at."""
    page = _of_nodes(100)
    assert "<summary>the other 80 nodes</summary>" in page
    assert "Charts are of the 24 tightest of 200 devices." in page
    assert len(re.findall(r'"id":"node-', page)) == 24
    assert '"id":"node-2/cuda:0"' in page
    assert len(re.findall(r"<tr><td>node-\d+</td>", page)) == 100
