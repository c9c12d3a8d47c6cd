"""A plugin's lease on a model ends with its block, whatever fails in between."""

from pathlib import Path

import pytest

from tests.rigs.model_files import spec, write_model
from tests.unit.machine import Machine
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
