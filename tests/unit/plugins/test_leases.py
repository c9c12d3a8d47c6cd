"""A plugin's lease on a model ends with its block, whatever fails in between."""

from pathlib import Path

import pytest

from tests.rigs.model_files import spec, write_model
from tests.unit.machine import Machine
from worker.core.models import ModelSpec
from worker.plugins._leases import Models


def test_what_can_not_be_told_of_a_lease_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short once a model is leased and before its user has it, the model is no longer in use."""
    write_model(tmp_path / "a.safetensors", 4096)
    machine = Machine(tmp_path, models=(spec(tmp_path / "a.safetensors"),))
    models = Models(machine.models, machine.clock)

    def short(_residence: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(machine.models.weights, "view", short)
        with pytest.raises(MemoryError), models.use("a"):
            pass
    assert machine.manager.models.get("a").in_use == 0
    with models.use("a") as weights:
        assert machine.manager.models.get("a").in_use == 1
        assert weights.size_bytes == 4096
    machine.models.unloader.unload("a", machine.token())


def test_a_tensor_without_elements_has_no_bytes_however_it_is_strided(tmp_path: Path) -> None:
    """Turned over, it has strides as any other, and there is nothing to be put in order."""
    torch = pytest.importorskip("torch")
    state = {"none": torch.empty(0, 3, 5).permute(0, 2, 1), "some": torch.ones(2, 3).t()}
    torch.save(state, tmp_path / "a.pt")
    declared = ModelSpec("a", "torch", tmp_path / "a.pt", tmp_path)
    machine = Machine(tmp_path, models=(declared,))
    with Models(machine.models, machine.clock).use("a") as weights:
        assert bytes(weights["none"]) == b""
        assert weights.tensors()["none"].shape == (0, 5, 3)
        assert len(weights["some"]) == 24
