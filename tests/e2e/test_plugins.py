"""A plugin's actions are answered like the worker's own, and its models are the worker's models."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples.plugins.text_embedding import make_model
from tests.e2e.process import ROOT, worker

MIB = 2**20


def test_the_example_embeds_texts_with_a_model_of_the_worker(tmp_path: Path) -> None:
    """Similar texts are close, the model is loaded on first use, and is evictable when nobody uses it."""
    make_model(tmp_path)
    options = ("--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.text_embedding")
    with worker(*options) as started:
        assert "text.embed" in started.call("worker.hello")["actions"]
        cats, more_cats, tax = started.call("text.embed", {"texts": ["a cat", "two cats", "tax return"]})[
            "vectors"
        ]
        near = sum(one * other for one, other in zip(cats, more_cats, strict=True))
        far = sum(one * other for one, other in zip(cats, tax, strict=True))
        assert near > far + 0.1
        started.call("text.embed", {"texts": ["again"]})
        rows = started.call("memory.get_analytics", {"include": ["actions"]})["actions"]
        embed = next(row for row in rows if row["action"] == "operation:embed")
        assert (embed["count"], embed["errors"]) == (2, 0)
        assert embed["count"] * embed["peak_bytes"] >= max(0, embed["delta_bytes"])
        status = started.call("memory.get_model_status", {"model_id": "trigrams"})["models"][0]
        assert (status["load_count"], status["use_count"], status["in_use"]) == (1, 2, 0)
        assert started.refused("text.embed", {"texts": 7})["code"] == "invalid_request"
        assert started.refused("text.embedd")["details"]["nearest"] == "text.embed"
        assert started.call("memory.unload_model", {"model_id": "trigrams"})["returned_bytes"] > 0


@pytest.mark.parametrize("name", ["no.such.module", "json"])
def test_a_plugin_that_can_not_be_used_is_named(name: str) -> None:
    """The worker does not start without what it was told to have."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", "--plugin", name],
        cwd=ROOT,
        input=b"",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert name in done.stderr.decode()


def test_the_example_that_blurs_works_in_buffers_that_are_counted() -> None:
    """Two buffers, whatever number of images: they are the worker's own allocations, and listed for what they cost."""
    image = base64.b64encode(bytes([0, 0, 0, 0, 90, 0, 0, 0, 0])).decode()
    asked = {"width": 3, "height": 3, "radius": 1, "pixels": image}
    with worker("--plugin", "examples.plugins.image_blur") as started:
        for _ in range(5):
            blurred = started.call("image.blur", asked)
            assert list(base64.b64decode(blurred["pixels"])) == [22, 15, 22, 15, 10, 15, 22, 15, 22]
        groups = started.call("memory.get_usage", {"device_id": "cpu"})["devices"][0]["groups"]
        (buffers,) = [each for each in groups if each["key"] == "buffers"]
        assert (buffers["allocation_count"], buffers["allocated_bytes"]) == (2, 8192)
        (pool,) = [
            each
            for each in started.call("memory.get_consumers")["consumers"]
            if each["consumer_id"] == "pool:buffers:cpu"
        ]
        assert (pool["kind"], pool["held_bytes"], pool["price_ms_per_mib"]) == ("buffers", 8192, 0)
        assert started.refused("image.blur", asked | {"width": 4})["code"] == "invalid_request"


def test_work_ten_times_larger_than_the_limit_is_done_in_batches_below_it() -> None:
    """The result is that of all at once, and no more than the limit was ever held."""
    whole = hashlib.sha256(b"".join(bytes([item]) * 2**20 for item in range(160))).hexdigest()
    with worker("--plugin", "tests.rigs.batching_plugin", "--limit-bytes", str(16 * 2**20)) as started:
        done = started.call("test.digest", {"items": 160, "device_id": "cuda:0"})
        assert done["digest"] == whole
        assert (done["item_count"], done["unbatched_bytes"], done["moved_items"]) == (160, 160 * 2**20, 160)
        assert 8 <= done["largest"] <= 16
        assert done["peak_bytes"] == done["largest"] * 2**20
        assert done["savings_percentage"] > 90
        device = started.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert device["peak_allocated_bytes"] <= 16 * 2**20


def _peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own figure of a process's peak is Linux's")
def test_a_file_ten_times_the_cap_is_counted_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found is what reading it all at once finds; the process grows by no more than the cap."""
    cap, path = 16 * MIB, tmp_path / "events.jsonl"
    kinds = ("load", "unload", "evict")
    with path.open("w") as file:
        lines = 0
        while file.tell() < 10 * cap:
            for number in range(1000):
                file.write(
                    json.dumps({"kind": kinds[number % 3], "id": lines + number, "text": "x" * 400}) + "\n"
                )
            lines += 1000
    expected = {
        kind: sum(number % 3 == at for number in range(1000)) * lines // 1000 for at, kind in enumerate(kinds)
    }
    monkeypatch.setenv("EVENTS_FILE", str(path))
    options = ("--plugin", "examples.plugins.event_counts", "--limit-bytes", str(cap))
    with worker(*options, patience=120.0) as started:  # there are 160 MB to be read
        pid = started.call("worker.hello")["pid"]
        before = _peak_bytes(pid)
        found = started.call("events.count", {"field": "kind"})
        assert found["counts"] == expected
        assert found["windows"] > 20
        assert _peak_bytes(pid) - before <= cap
        with path.open("a") as file:
            file.write('{"kind": "evict"}\n')
        again = started.call("events.count", {"field": "kind"})
        assert (again["counts"]["evict"], again["windows"]) == (expected["evict"] + 1, 1)


def test_the_example_that_finds_notes_keeps_each_users_to_themselves(tmp_path: Path) -> None:
    """What is about the same is nearest, through a restart; another user's notes are never found."""
    make_model(tmp_path)
    options = ("--models", str(tmp_path / "models.yaml"), "--store-folder", str(tmp_path / "kept"))
    plugin = ("--plugin", "examples.plugins.note_search")
    notes = {"1": "The cat sleeps on the mat", "2": "Income tax is due in May", "3": "A recipe for apple pie"}
    with worker(*options, *plugin) as started:
        for note_id, text in notes.items():
            started.call("note.add", {"user": "ann", "id": note_id, "text": text})
        started.call("note.add", {"user": "bob", "id": "1", "text": "Cats sleep a lot"})
        assert started.refused("note.add", {"user": "ann", "id": "4"})["code"] == "invalid_request"
    with worker(*options, *plugin) as started:
        found = started.call("note.find", {"user": "ann", "text": "sleeping cats"})["notes"]
        assert found[0]["text"] == notes["1"]
        assert sorted(each["id"] for each in found) == ["1", "2", "3"]
        assert started.call("note.find", {"user": "eve", "text": "sleeping cats"})["notes"] == []
