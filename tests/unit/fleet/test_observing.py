"""A node's view of itself, out of what its worker answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from protocol.vocabulary import FileLocation
from tests.e2e.process import MIB, worker
from tests.rigs.model_files import write_model
from worker.fleet.observing import Observer
from worker.fleet.pace import Pace


def test_loads_and_leases_show(tmp_path: Path) -> None:
    """Models in use count on their device; one that was never loaded is expected at the pace of those that were."""
    for name in ("a", "b"):
        write_model(tmp_path / f"{name}.safetensors", 8 * MIB)
    (tmp_path / "models.yaml").write_text("models: {a: {path: a.safetensors}, b: {path: b.safetensors}}")
    with worker("--models", str(tmp_path / "models.yaml")) as started:
        observer = Observer("node-1", "one", Pace())
        before = observer.observe(started.call, draining=False)
        assert {each.read_bytes_per_s for each in before.models} == {None}
        started.call("memory.load_model", {"model_id": "a"})

        def ask(action: str, data: dict[str, Any] | None = None) -> Any:
            answer = started.call(action, data or {})
            for row in answer.get("models", ()):
                if row["model_id"] == "a":
                    row.update(load_ms=16, in_use=3)  # as after a load from a disk, while three use it
            return answer

        after = observer.observe(ask, draining=False)
        (size,) = (each.size_bytes for each in after.models if each.load_ms == 16)
        assert {each.read_bytes_per_s for each in after.models} == {size * 1000 / 16}
        assert [each.in_use for each in after.devices] == [3]


class Answers:
    """A worker's answers, of one device and these models."""

    def __init__(self, *models: dict[str, Any]) -> None:
        self.models = models

    def __call__(self, action: str, _data: dict[str, Any] | None = None) -> Any:
        device = {
            "device_id": "cuda:0",
            "kind": "cuda",
            "total_bytes": 9,
            "available_bytes": 9,
            "state": "available",
        }
        return {
            "devices": [device],
            "models": self.models,
            "consumers": [],
            "candidates": [{"device_id": "cuda:0"}],
        }


def row(model_id: str, state: str = "unloaded", **more: Any) -> dict[str, Any]:
    known = {
        "measured_bytes": None, "estimated_bytes": 8 * MIB, "declared_bytes": None, "device_id": "cuda:0", "load_ms": None,
        "in_use": 0, "pinned": False, "state_reason": None, "names": [], "file_location": "local",
    }  # fmt: skip
    return {"model_id": model_id, "state": state, **known, **more}


def test_a_load_is_the_nearer_to_its_end_the_longer_it_is_seen() -> None:
    """Others on the device begin after it."""
    now = [5.0]
    observer = Observer("node-1", "one", Pace(), lambda: now[0])
    ask = Answers(row("a", "loading", load_ms=4000))
    assert observer.observe(ask, draining=False).devices[0].queue_ms == 4000
    now[0] += 1.0
    seen = observer.observe(ask, draining=False)
    assert (seen.models[0].ready_in_ms, seen.devices[0].queue_ms) == (3000, 3000)
    now[0] += 9.0
    assert observer.observe(ask, draining=False).devices[0].queue_ms == 0
    ask.models = (row("a", "loaded", load_ms=4000),)
    assert observer.observe(ask, draining=False).models[0].ready_in_ms == 0
    ask.models = (row("a", "loading", load_ms=4000),)  # again
    assert observer.observe(ask, draining=False).models[0].ready_in_ms == 4000


def test_a_share_is_read_at_its_links_speed_until_a_load_from_it_says_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a load from a disk says nothing of it."""
    links = {"lo": SimpleNamespace(isup=True, speed=0), "eth0": SimpleNamespace(isup=True, speed=1000),
             "eth1": SimpleNamespace(isup=False, speed=100_000)}  # fmt: skip
    monkeypatch.setattr(psutil, "net_if_stats", lambda: links)
    observer = Observer("node-1", "one", Pace())
    ask = Answers(
        row("disk", load_ms=8), row("share", file_location="shared"), row("gone", file_location="absent")
    )
    disk, share, gone = observer.observe(ask, draining=False).models
    assert disk.read_bytes_per_s == 8 * MIB * 1000 / 8
    assert share.read_bytes_per_s == pytest.approx(117.5e6)
    assert (gone.file, gone.read_bytes_per_s) == (FileLocation.ABSENT, None)
    ask.models = (*ask.models, row("loaded from there", file_location="shared", load_ms=16))
    assert observer.observe(ask, draining=False).models[1].read_bytes_per_s == 8 * MIB * 1000 / 16


def test_calls_that_wait_for_a_model_count_as_its_leases_and_by_whom() -> None:
    """A worker has so many threads for plugins: what is queued for one has no lease yet."""
    pace = Pace()
    observer = Observer("node-1", "one", pace)
    ask = Answers(row("a", "loaded", in_use=1), row("b", "loaded", in_use=2))
    for number, gateway in enumerate(("x", "x", "y")):
        pace.begin(str(number), gateway, "a")
    (device,) = observer.observe(ask, draining=False).devices
    assert (device.in_use, device.placed) == (5, (("x", 2), ("y", 1)))
