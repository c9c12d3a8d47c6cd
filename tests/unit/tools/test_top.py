"""The live view: what it shows of a snapshot at any size, and how it follows a record as it grows."""

import contextlib
import io
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.unit.tools.test_report import HEADER, sample
from worker.tools.attached import SourceError
from worker.tools.report.happenings import Happening
from worker.tools.report.words import duration
from worker.tools.top.snapshot import DeviceRow, ModelRow, OwnerRow, Replies, Snapshot, of_replies
from worker.tools.top.sources import RecordSource, SocketSource
from worker.tools.top.view import View, curve, trend_of

GIB = 2**30


def screen(snapshot: Snapshot, width: int = 80, height: int = 24, *, paused: bool = False) -> list[str]:
    """Draw. Returns the lines."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = Console(file=out, width=width, height=height, force_terminal=False, _environ={})
    console.print(View(snapshot, paused=paused))
    out.seek(0)
    return out.read().splitlines()


def device(name: str, **more: object) -> DeviceRow:
    """Make a device's row."""
    row = {
        "device_id": name, "state": "available", "level": "high", "percentage": 91.0, "budget_bytes": 8 * GIB,
        "own_bytes": 7 * GIB, "available_bytes": GIB, "bytes_per_second": 1.5 * 2**20, "seconds_left": 95.0,
        "curve": (0, 5, 10),
    }  # fmt: skip
    return DeviceRow(**(row | more))


SHOWN = Snapshot(
    source="/run/w.sock",
    worker="0.1.0, process 7",
    uptime_ms=3_700_000,
    devices=(
        device("cpu"),
        device("sim:0", level="critical", state="lost", percentage=None, available_bytes=None),
    ),
    owners=(OwnerRow("cpu", "kv-cache", 3 * GIB, 12), OwnerRow("cpu", "(no owner)", 5, 1)),
    models=(
        ModelRow("llama", "loaded", "cpu", 4 * GIB, 0, pinned=False, expires_in_ms=65_000),
        ModelRow("clip", "loaded", "cpu", GIB, 2, pinned=False, expires_in_ms=None),
        ModelRow("vae", "loaded", "cpu", GIB, 0, pinned=True, expires_in_ms=None),
        ModelRow("whisper", "unloaded", "", None, 0, pinned=False, expires_in_ms=None),
    ),
    happenings=(
        Happening(3_690_000, "evict", "cpu", "whisper went", "unloaded: last used 9 s ago", 1),
        Happening(3_000_000, "refused", "cpu", "memory.allocate failed: out_of_memory", "no room", 2, 3),
    ),
)


def test_everything_has_its_place_on_80_by_24() -> None:
    """Devices, levels, owners, models with what keeps them, and decisions with reasons."""
    lines = screen(SHOWN)
    assert len(lines) == 24
    text = "\n".join(lines)
    for said in (
        "process 7", "up 1h01m", "cpu", "high", "91%", "7.0 GiB", "lost", "unknown", "kv-cache", "(no owner)",
        "llama", "1m05s", "2 use", "pinned", "whisper", "whisper went", "10s", "last used", "3× memory", "q quit",
    ):  # fmt: skip
        assert said in text, said


def test_the_trend_is_in_words_where_there_is_room() -> None:
    """How fast, and how long it lasts; nothing where nobody knows."""
    wide = "\n".join(screen(SHOWN, 120))
    assert "full in 1m35s, +1.5 MiB/s" in wide
    assert "full in 1m35s" in "\n".join(screen(SHOWN))  # also where there is room for only one of both
    for speed, said in ((None, ""), (3.0, "steady"), (-2.0 * 2**30, "-2.0 GiB/s")):
        text = trend_of(device("cpu", bytes_per_second=speed, seconds_left=None))
        assert text == said


def test_the_end_and_a_pause_are_said() -> None:
    """Figures that no longer move are not taken for ones that do."""
    assert "PAUSED" in screen(SHOWN, paused=True)[0]
    gone = Snapshot("s" * 200, "w", 0, (), (), (), (), ended=True)
    assert screen(gone)[0].endswith("ENDED")


@settings(max_examples=60, deadline=None)  # how long it takes is not what is asked
@given(
    st.integers(20, 200), st.integers(8, 60), st.integers(0, 20), st.integers(0, 50), st.integers(0, 50),
    st.text(max_size=40),
)  # fmt: skip
@example(20, 8, 1, 0, 0, "node-1/")
@example(20, 8, 3, 5, 5, "node-1/")
def test_it_fits_any_window(
    width: int, height: int, devices: int, owners: int, models: int, name: str
) -> None:
    """No line is longer than the window, and there are not more of them; names are text, not markup."""
    snapshot = Snapshot(
        "s", "w", 5,
        tuple(device(f"{name}{index}") for index in range(devices)),
        tuple(OwnerRow("cpu", f"[red]{name}", index, 1) for index in range(owners)),
        tuple(ModelRow(f"{name}[/]", "loaded", "cpu", 1, 0, pinned=False, expires_in_ms=1) for _ in range(models)),
        tuple(Happening(1, "evict", "cpu", f"[bold]{name}", name, 1) for _ in range(owners)),
    )  # fmt: skip
    lines = screen(snapshot, width, height)
    assert len(lines) <= height
    assert all(cell_len(line.rstrip()) <= width for line in lines)


def test_a_name_cannot_do_anything_to_the_terminal() -> None:
    """An owner called as an escape sequence is shown, not obeyed."""
    owners = (OwnerRow("cpu", "\x1b[2J\x07\x9b31m\nx\u202e", 1, 1),)
    text = "\n".join(screen(Snapshot("s", "w", 5, (), owners, (), ())))
    assert "�[2J��31m�x�" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (59_999, "59s"), (60_000, "1m00s"), (3_600_000, "1h00m"), (90_000_000, "1d01h")],
)
def test_durations(milliseconds: int, text: str) -> None:
    """Two units at most."""
    assert duration(milliseconds) == text


def test_curves() -> None:
    """From nothing to the most; empty where there was never anything."""
    assert curve((0, 50, 100), "01234567") == "037"
    assert curve((0, 0), "01234567") == ""


def test_a_record_is_followed_as_it_grows(tmp_path: Path) -> None:
    """Half a line waits for its other half; a file that was turned over is followed into the new one."""
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(HEADER | {"t_ms": None}) + "\n")
    source = RecordSource(path)
    with pytest.raises(SourceError, match="nothing is recorded"):
        source.snapshot()
    line = json.dumps(sample(2000, 100)) + "\n"
    with path.open("a") as file:
        file.write(line + line[:20])
    assert source.snapshot().owners == (OwnerRow("cpu", "kv", 100, 1),)
    with path.open("a") as file:
        file.write(line[20:].replace('_ms": 2000', '_ms": 3000'))
    assert len(source.snapshot().devices[0].curve) == 2
    path.replace(tmp_path / "r.jsonl.1")
    path.write_text(
        json.dumps(HEADER) + "\n" + json.dumps(sample(4000, 300)) + "\n" + '{"end": true, "t_ms": 5}\n'
    )
    found = source.snapshot()
    assert found.owners == (OwnerRow("cpu", "kv", 300, 1),)
    assert found.ended
    source.close()


def test_a_record_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(SourceError, match="none.jsonl"):
        RecordSource(tmp_path / "none.jsonl")


def test_a_record_has_the_trend_and_what_was_done_by_itself(tmp_path: Path) -> None:
    """The last sample's trend; the curve by the second, though a sample is there only where it changed."""
    path = tmp_path / "r.jsonl"
    trend = {
        "bytes_per_second": 1e6,
        "seconds_to_exhaustion": 95.4,
        "low_seconds": 80.0,
        "high_seconds": 120.0,
    }
    done = {
        "device_id": "cpu", "pressure_level": "high", "helped": True, "next_in_ms": 30_000, "returned_bytes": GIB,
        "steps": [{"step": "memory.unload_model", "data": {"model_id": "llama"}, "expected_bytes": GIB}],
    }  # fmt: skip
    rows = [
        sample(1000, 100),
        {"event": "memory.optimized", "t_ms": 4000, "data": done},
        sample(6000, 300, peak_bytes=500, trend=trend),
        sample(8000, 200, peak_bytes=200, trend=trend),
    ]
    path.write_text("\n".join(map(json.dumps, (HEADER, *rows, ""))))
    with contextlib.closing(RecordSource(path)) as source:
        shown = source.snapshot()
    (cpu,) = shown.devices
    assert (cpu.bytes_per_second, cpu.seconds_left) == (1e6, 95.4)
    assert cpu.curve == (100, 100, 100, 100, 100, 500, 300, 200)
    text = "\n".join(screen(shown))
    assert "full in 1m35s" in text
    assert "automatic: unloaded llama" in text


def test_the_curve_of_a_live_worker_has_a_point_for_each_second() -> None:
    """A point that stands for three seconds is three: its most, and then what was left of it."""
    point = {"device_id": "cpu", "allocated_bytes": 4, "peak_allocated_bytes": 4, "span_ms": 1000}
    long = point | {"allocated_bytes": 2, "peak_allocated_bytes": 9, "span_ms": 3400}
    status = {
        "device_id": "cpu", "state": "available", "pressure_level": "low", "budget_bytes": 9, "available_bytes": 5,
        "usage": [],
    }  # fmt: skip
    replies = Replies(
        hello={"worker_version": "1", "pid": 7}, ping={"uptime_ms": 1}, pressure={"devices": []},
        status={"devices": [status]}, models={"models": []}, timeline={"timeline": [point, long, point]},
    )  # fmt: skip
    assert of_replies("s", replies, (), ended=False).devices[0].curve == (4, 9, 2, 2, 4)


def _fleet(nodes: int, **tight: object) -> tuple[DeviceRow, ...]:
    """Make nodes with two devices each, of which one device of node 2 is tight."""
    calm = {"level": "low", "percentage": 40.0}
    return tuple(
        device(f"node-{node}/{name}", **(calm | (tight if (node, name) == (2, "cuda:0") else {})))
        for node in range(1, nodes + 1)
        for name in ("cpu", "cuda:0")
    )


def test_devices_of_nodes_come_node_by_node_the_tightest_first() -> None:
    """Each by its whole id, as a request names it, where all of them fit."""
    lines = screen(Snapshot("s", "w", 5, _fleet(3, level="high", percentage=91.0), (), (), ()))
    assert lines[1].strip() == "3 nodes, 6 devices, the tightest first · 1 high"
    shown = [line.split()[0] for line in lines[3:9]]
    assert shown[:2] == ["node-2/cuda:0", "node-2/cpu"]
    assert shown[2:] == ["node-1/cpu", "node-1/cuda:0", "node-3/cpu", "node-3/cuda:0"]


@pytest.mark.parametrize("tight", [{"level": "critical"}, {"state": "lost"}, {"percentage": 41.0}])
def test_a_thousand_nodes_have_a_line_each_as_far_as_there_are_lines(tight: dict[str, object]) -> None:
    """That of their tightest device; how many devices it stands for, and how many nodes are not shown, is said."""
    lines = screen(Snapshot("s", "w", 5, _fleet(1000, **tight), (), (), ()))
    assert lines[1].startswith("1,000 nodes, 2,000 devices, the tightest first")
    assert lines[2].startswith("device +992 nodes")
    assert lines[3].startswith("node-2/cuda:0 +1 ")
    assert [line.split("/")[0] for line in lines[4:11]] == [f"node-{each}" for each in (1, 3, 4, 5, 6, 7, 8)]
    assert len(lines) == 24


def test_owners_and_decisions_of_nodes_say_which() -> None:
    """Six characters are enough for a device of this machine, and for no node's."""
    owners = (OwnerRow("node-12/cuda:0", "kv-cache", GIB, 1),)
    gone = (Happening(1, "evict", "node-12/cuda:0", "whisper went", "", 1),)
    text = "\n".join(screen(Snapshot("s", "w", 5, _fleet(2), owners, (), gone), 100))
    assert "kv-cache" in text
    assert text.count("node-12/cuda:0") == 2


def test_a_fleet_is_asked_page_by_page() -> None:
    """A thousand devices are no single answer; a worker that knows no pages is asked for none."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        asked = answering(theirs, [row.device_id for row in _fleet(600)])
        source = SocketSource(Path("s"), ours)
        assert len(source.snapshot().devices) == 1200
        statuses = [data for action, data in asked if action == "memory.get_status"]
        assert [each.get("after") for each in statuses] == [None, "node-250/cuda:0", "node-500/cuda:0"]
        (curves,) = [data["include"] for action, data in asked if action == "memory.get_analytics"]
        assert curves == ["evictions"]


def test_a_worker_that_serves_no_more_views_hangs_up() -> None:
    """As at its ninth: one line says so."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(SourceError, match="hung up"):
        SocketSource(Path("s"), ours)
    assert ours.fileno() == -1


def answering(connection: socket.socket, device_ids: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Answer as a fleet would, in a thread. Returns what is asked, as it comes."""
    asked: list[tuple[str, dict[str, Any]]] = []
    row = {
        "state": "available",
        "pressure_level": "low",
        "budget_bytes": 9,
        "available_bytes": 5,
        "usage": [],
    }
    more = {"allocated_bytes": 1, "model_bytes": 0, "external_bytes": 0}

    def answer(action: str, data: dict[str, Any]) -> dict[str, Any]:
        first = device_ids.index(data["after"]) + 1 if data.get("after") else 0
        page = device_ids[first : first + data.get("limit", len(device_ids))]
        return {
            "worker.hello": {"worker_version": "1", "pid": 7, "actions": ["fleet.drain"]},
            "worker.ping": {"uptime_ms": 1},
            "memory.get_status": {
                "devices": [row | more | {"device_id": each} for each in page],
                "next": page[-1] if page and page[-1] != device_ids[-1] else None,
            },
            "memory.get_pressure": {"devices": []},
            "memory.get_model_status": {"models": []},
            "memory.get_analytics": {"timeline": None, "evictions": []},
        }.get(action, {})

    def serve() -> None:
        with connection.makefile("rwb") as lines:
            for line in lines:
                request = json.loads(line)
                asked.append((request["action"], request["data"]))
                data = answer(*asked[-1])
                lines.write(
                    json.dumps({"request_id": request["request_id"], "success": True, "data": data}).encode()
                    + b"\n"
                )
                lines.flush()

    threading.Thread(target=serve, daemon=True).start()
    return asked
