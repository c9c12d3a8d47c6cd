"""The command as a person runs it: a worker's own record and a trace of several consumers, replayed in a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, worker
from tests.rigs.model_files import write_model


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "worker", "simulate", *arguments],
        cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip


def test_what_a_worker_recorded_tells_what_else_would_have_cost(tmp_path: Path) -> None:
    """Two models in room for one, used in turn: the replay has the record's loads, and twice the bound has fewer."""
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 24 * MIB)
    declared = "".join(
        f"  - {{id: {name}, path: {name}.safetensors, loader: safetensors, device: 'sim:0'}}\n"
        for name in "ab"
    )
    (tmp_path / "models.yaml").write_text("models:\n" + declared)
    record = tmp_path / "r.jsonl"
    options = ("--simulated-device", "40MiB", "--models", str(tmp_path / "models.yaml"))
    with worker(*options, "--record", str(record)) as started:
        for name in "abab":
            started.call("memory.load_model", {"model_id": name})
        started.close_input()
        assert started.exit_code() == 0
    done = simulate(str(record), "--what-if", "--policy", "lru", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)["what_if"]["sim:0"]
    assert told["as_it_is"]["reloads"] == 4
    assert told["as_it_is"]["held_byte_ms"] is not None
    twice = [row for row in told["tried"] if row["value"] == 2 * told["capacity_bytes"]]
    assert [row["more_reloads"] for row in twice] == [-2]
    assert simulate(str(record), "--what-if").stdout.startswith("sim:0\nas it is, ")


def test_several_consumers_and_what_is_no_trace_of_them(tmp_path: Path) -> None:
    """One line of JSON, a table, or one sentence on stderr."""
    pytest.importorskip("highspy")
    entries = {"s": {"size_bytes": 6 * MIB, "cost_ms": 300}}
    small = {f"r{index}": {"size_bytes": MIB, "cost_ms": 2} for index in range(8)}
    header = {
        "consumers": {"kv": {"entries": entries}, "responses": {"entries": small}},
        "capacity_bytes": 8 * MIB,
    }
    uses = [
        use
        for turn in range(40)
        for use in (
            {"consumer": "kv", "use": "s", "t_ms": 1000 * turn},
            {"consumer": "responses", "use": f"r{turn % 8}", "t_ms": 1000 * turn},
        )
    ]
    path = tmp_path / "consumers.jsonl"
    path.write_text("\n".join(map(json.dumps, [header, *uses])), encoding="utf-8")
    done = simulate(str(path), "--json")
    assert done.returncode == 0, done.stderr  # the solver writes its name there
    told = json.loads(done.stdout)
    cost = {name: row["rebuild_ms"] for name, row in told["arrangements"].items()}
    assert told["optimum"]["rebuild_ms"] <= cost["planner"] < cost["own_lru"]
    assert told["consumers"]["kv"]["rebuild_ms"]["planner"] == 300
    assert "hindsight partition" in simulate(str(path)).stdout
    path.write_text(json.dumps(header) + '\n{"consumer": "kv", "use": "t"}\n', encoding="utf-8")
    done = simulate(str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{path}: line 2: entry 't' of 'kv' was not declared\n"
