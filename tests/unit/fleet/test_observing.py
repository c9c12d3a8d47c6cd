"""A node's view of itself, out of what its worker answers."""

from pathlib import Path
from typing import Any

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
