"""Models that are declared otherwise while they are used: they change after their last lease."""

from dataclasses import replace
from pathlib import Path

import pytest

from protocol.vocabulary import ModelState
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import Machine
from worker.core.errors import ModelNotFoundError


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 4096)
    models = (spec(tmp_path / "a.safetensors"), spec(tmp_path / "b.safetensors"))
    return Machine(tmp_path, models=models)


def test_what_is_in_use_changes_after_its_last_lease(machine: Machine) -> None:
    """A reload changes a leased model only once nobody uses it."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    found = machine.models.reload([replace(a, dtype="F16"), b], ())
    assert (found.changed, found.kept) == (("a",), ("b",))
    entry = machine.manager.models.get("a")
    assert entry.spec is a and entry.state is ModelState.LOADED
    machine.booked.release("a", held.residence.handle)
    machine.models.unloader.expire("a")
    assert entry.spec.dtype == "F16" and entry.state is ModelState.UNLOADED


def test_what_is_removed_in_use_goes_after_its_last_lease_and_takes_no_other(machine: Machine) -> None:
    """A removed model stays until its last lease ends; others are untouched."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    assert machine.models.reload([b], ()).removed == ("a",)
    with pytest.raises(ModelNotFoundError, match="is not declared any more"):
        machine.models.acquire("a", machine.token())
    machine.booked.release("a", held.residence.handle)
    machine.models.unloader.expire("a")
    assert [each.model_id for each in machine.manager.models] == ["b"]
    assert machine.models.reload([a, b], ()).added == ("a",)


def test_what_makes_no_difference_to_what_is_loaded_is_taken_over_at_once(machine: Machine) -> None:
    """Priorities, pins and keep-alives change without an unload."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    assert machine.models.reload([replace(a, priority=7, aliases=("x",)), b], ()).changed == ("a",)
    entry = machine.manager.models.get("x")
    assert (entry.spec.priority, entry.in_use) == (7, 1)
    machine.booked.release("a", held.residence.handle)
    assert entry.state is ModelState.LOADED
