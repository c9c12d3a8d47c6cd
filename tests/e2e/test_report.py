"""A real worker's record becomes a page that a real browser draws; its metrics file is whole at any time."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.process import MIB, ROOT, worker
from tests.rigs.model_files import write_model
from tests.unit.tools.test_report import lines, sample
from tests.unit.tools.test_report_events import event
from worker.tools.report.command import main

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a worker that allocated, loaded, evicted, refused and was limited."""
    folder = tmp_path_factory.mktemp("record")
    for name in "ab":
        write_model(folder / f"{name}.safetensors", 24 * MIB)
    declared = "".join(
        f"  - {{id: {name}, path: {name}.safetensors, loader: safetensors, device: 'sim:0'}}\n"
        for name in "ab"
    )
    (folder / "models.yaml").write_text("models:\n" + declared)
    record = folder / "r.jsonl"
    options = (
        "--simulated-device",
        "40MiB",
        "--models",
        str(folder / "models.yaml"),
        "--record",
        str(record),
    )
    with worker(*options) as started:
        for name in "aba":
            started.call("memory.load_model", {"model_id": name})
        started.call("memory.allocate", {"size_bytes": 5 * MIB, "device_id": "sim:0", "owner": "kv <cache>"})
        started.refused("memory.allocate", {"size_bytes": 900 * MIB, "device_id": "sim:0"})
        started.call("memory.set_limits", {"device_id": "sim:0", "limit_bytes": 32 * MIB})
        started.close_input()
        assert started.exit_code() == 0
    subprocess.run(
        [sys.executable, "-m", "worker", "report", str(record)], cwd=ROOT, check=True, capture_output=True
    )
    return record.with_suffix(".html")


def test_the_record_of_a_real_worker_tells_its_story(page: Path) -> None:
    """What was asked of it is in the tables, with the reasons, readable without any script."""
    text = page.read_text(encoding="utf-8")
    for said in (
        "a loaded",
        "b went",
        "memory.allocate failed: out_of_memory",
        "budget 40.0 MiB → 32.0 MiB",
        "limit none → 32.0 MiB",
        "kv &lt;cache&gt;",
        "ended in order",
    ):
        assert said in text
    assert len(text) < 200_000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed here")
def test_a_browser_draws_it_and_has_no_complaint(page: Path, tmp_path: Path) -> None:
    """Every chart is there with areas, bands and lanes, and the console stays empty."""
    drawn = _drawn(page, tmp_path)
    assert re.search(r'<html[^>]* data-drawn="3"', drawn)  # cpu, sim:0 and the models
    areas = re.findall(r'<path d="([^"]*)"[^>]*class="layer"', drawn)
    assert areas and all(area.startswith("M") and "NaN" not in area for area in areas)
    assert len(re.findall(r'<rect[^>]*class="band"', drawn)) >= 2
    assert len(re.findall(r'<rect[^>]*class="lane"', drawn)) == 3
    assert "NaN" not in drawn


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed here")
def test_what_was_foretold_and_done_by_itself_is_drawn(tmp_path: Path) -> None:
    """A forecast is a line with its interval, what the worker did a mark of its own shape."""
    record = tmp_path / "r.jsonl"
    foretold = {"seconds_to_exhaustion": 3.0, "low_seconds": 2.0, "high_seconds": 4.0, "available_bytes": 400}
    trend = {"bytes_per_second": 50, "seconds_to_exhaustion": None, "low_seconds": None, "high_seconds": None}
    rows = [
        sample(1000, 100),
        sample(2000, 500, trend=trend),
        event("memory.exhaustion_forecast", 2500, **foretold),
        event("memory.optimized", 5000, pressure_level="high", helped=True, steps=[]),
        event("memory.budget_changed", 5500, previous_bytes=900, budget_bytes=500),
        sample(9000, 300),
    ]
    record.write_text("\n".join(lines(*rows)))
    assert main([str(record)]) == 0
    drawn = _drawn(record.with_suffix(".html"), tmp_path / "browser")
    assert len(re.findall(r'<path d="M[^"]*" class="forecast"', drawn)) == 1
    assert len(re.findall(r'<path d="M[^"]*" class="interval"', drawn)) == 1
    assert len(re.findall(r'class="mark automatic"', drawn)) == 1
    assert len(re.findall(r'class="mark[ "]', drawn)) == 3
    assert "NaN" not in drawn


def _drawn(page: Path, folder: Path) -> str:
    """Let a browser draw a page, which it does without a complaint. Returns what became of it."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            "--window-size=1200,1600", "--virtual-time-budget=2000", "--enable-logging=stderr", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    complaints = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert complaints == []
    return done.stdout.decode()


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """One line on stderr, and 2."""
    (tmp_path / "x").write_text("hello\n")
    done = subprocess.run(
        [sys.executable, "-m", "worker", "report", str(tmp_path / "x")],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no line of it is of a record" in done.stderr.decode()


def test_metrics_file(tmp_path: Path) -> None:
    """There from the start, whole, the same figures as the action's, and gone with the worker."""
    path = tmp_path / "worker.prom"
    with worker("--metrics-file", str(path), "--metrics-seconds", "3600") as started:
        names = {family.name for family in text_string_to_metric_families(path.read_text())}
        answered = started.call("memory.get_metrics")["text"]
        assert names <= {family.name for family in text_string_to_metric_families(answered)}
        assert "memory_worker_device_allocated_bytes" in names
        started.close_input()
        assert started.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--metrics-file", "--record", "--monitor-socket"])
def test_a_place_that_cannot_be_written_is_refused_at_the_start(option: str, tmp_path: Path) -> None:
    """Exit code 2, and the option's name."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", option, str(tmp_path / "none" / "file")],
        cwd=ROOT, input=b"", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert option in done.stderr.decode()


def test_a_record_without_models_says_so_to_simulate(tmp_path: Path) -> None:
    """It is a record all the same; there is only nothing to replay."""
    record = tmp_path / "r.jsonl"
    with worker("--record", str(record)) as started:
        started.call("memory.allocate", {"size_bytes": MIB})
        started.close_input()
        assert started.exit_code() == 0
    noted = [json.loads(line) for line in record.read_text().splitlines()]
    assert noted[0]["capacity_bytes"] is None
    assert noted[-1]["end"]
    assert all(
        note["trend"] is None or "bytes_per_second" in note["trend"] for note in noted if "sample" in note
    )
    done = subprocess.run(
        [sys.executable, "-m", "worker", "simulate", str(record)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert "no model was used yet" in done.stderr.decode()
