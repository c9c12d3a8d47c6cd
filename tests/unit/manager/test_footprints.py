"""What models take, against what was said: a margin that learns, and is neither fooled nor frightened."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.errors import OutOfMemoryError
from worker.core.models import ModelSpec
from worker.manager.footprints import HIGHEST, TELLING_FROM_BYTES, FootprintMargins

SAID = TELLING_FROM_BYTES


def margins(*ratios: float) -> FootprintMargins:
    found = FootprintMargins()
    for ratio in ratios:
        found.note("module", "cpu", SAID, round(SAID * ratio))
    return found


def test_without_experience_what_is_said_is_believed() -> None:
    """The first load of a loader is admitted by its declared size."""
    assert FootprintMargins().expected_bytes("module", "cpu", 1000) == 1000


def test_one_wrong_declaration_changes_nothing_and_two_do() -> None:
    """The second-highest ratio seen counts, so that a single odd model does not."""
    assert margins(1.4).factor("module", "cpu") == 1.0
    assert margins(*[1.0] * 20, 9.0).factor("module", "cpu") == 1.0
    assert margins(1.2, 1.4).factor("module", "cpu") == pytest.approx(1.2)
    assert margins(1.2, 1.4).expected_bytes("module", "cpu", 1000) == 1200


def test_loaders_and_devices_have_margins_of_their_own() -> None:
    """What one loader takes on one device says nothing of others."""
    found = margins(1.2, 1.2)
    assert found.factor("module", "cuda:0") == found.factor("gguf", "cpu") == 1.0


def test_small_models_and_old_ones_are_not_heard() -> None:
    """Models too small to measure, and all but the latest, count for nothing."""
    found = FootprintMargins()
    for _ in range(9):
        found.note("module", "cpu", SAID - 1, SAID * 4)
    assert found.factor("module", "cpu") == 1.0
    assert margins(*[1.4] * 9, *[1.1] * 32).factor("module", "cpu") == pytest.approx(1.1)


@given(st.lists(st.floats(0, 100), max_size=80))
def test_it_is_bounded_and_never_more_than_was_seen(ratios: list[float]) -> None:
    """For any history the margin is at least 1 and at most what was seen, or its bound."""
    factor = margins(*ratios).factor("module", "cpu")
    assert 1.0 <= factor <= HIGHEST
    assert factor == 1.0 or factor <= max(ratios) + 0.001


def test_models_are_admitted_by_what_the_others_turned_out_to_take(tmp_path: Path) -> None:
    """Two that take a quarter more than declared make the third wait for a quarter more room."""
    declared = 16 * MIB
    factory = "tests.rigs.model_factory:make"
    models = tuple(
        ModelSpec(name, loader="module", factory=factory, declared_bytes=declared) for name in "abc"
    )
    machine = Machine(tmp_path, models=models)
    grown = [0]

    def growing() -> int:
        grown[0] += 10 * MIB  # read twice around each load, within one another: 10 MiB of growth inside
        return grown[0]

    machine.process_bytes = growing
    for name in "ab":
        machine.load(name)
    entry = machine.manager.models.get("a")
    assert entry.measured_bytes == 10 * MIB
    machine.models.placement.margins.note("module", "cpu", declared, declared * 5 // 4)
    machine.models.placement.margins.note("module", "cpu", declared, declared * 5 // 4)
    room = machine.manager.pressure.headroom("cpu").available_bytes
    assert room is not None
    held = machine.allocate("cpu", room - declared - MIB, overwritten=True)
    with pytest.raises(OutOfMemoryError) as refused:
        machine.load("c", make_room=False)
    assert refused.value.details["requested_bytes"] == declared * 5 // 4
    machine.memory.allocations.deallocate(held, force=True)
    assert machine.load("c").state == "loaded"


def test_all_three_figures_are_shown_and_the_measured_one_wins(tmp_path: Path) -> None:
    """Declared, estimated and measured bytes are told side by side; the process's growth is its own figure."""
    write_model(tmp_path / "a.safetensors", 3 * MIB)
    declared = spec(tmp_path / "a.safetensors", device_id="sim:0", declared_bytes=MIB)
    machine = Machine(tmp_path, SimulatedDevice(10 * MIB), models=(declared,))
    sizes = iter([50 * MIB, 54 * MIB])
    machine.process_bytes = lambda: next(sizes)
    machine.models.estimate()
    entry = machine.manager.models.get("a")
    assert (entry.known_bytes, entry.estimated_bytes) == (3 * MIB, 3 * MIB)
    loaded = machine.load("a")
    figures = (loaded.declared_bytes, loaded.estimated_bytes, loaded.measured_bytes)
    assert figures == (MIB, 3 * MIB, 3 * MIB)
    assert loaded.measured_process_bytes == 4 * MIB


def test_growth_that_may_be_anothers_is_not_told(tmp_path: Path) -> None:
    """An allocation made while the model is loaded: whose growth it is can't be said."""
    write_model(tmp_path / "a.safetensors", MIB)
    machine = Machine(
        tmp_path, SimulatedDevice(10 * MIB), models=(spec(tmp_path / "a.safetensors", device_id="sim:0"),)
    )
    machine.process_bytes = lambda: 0
    made: list[str] = []

    def report(_completed: int, _total: int) -> None:
        if not made:
            made.append(machine.allocate("cpu", 1))

    taken = machine.models.hold("a", machine.token(), report)
    assert taken.entry.measured_process_bytes is None
    assert taken.entry.measured_bytes == MIB
