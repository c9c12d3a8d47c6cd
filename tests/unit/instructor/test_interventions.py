"""What frees memory is noted when it was carried out, and only then."""

from pathlib import Path
from typing import Any

import pytest

from protocol.results import OptimizeResult
from protocol.vocabulary import FreedBy, MemoryType, PressureLevel
from tests.rigs.model_files import spec, write_model
from tests.unit.instructor.instructors import instructor_over
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.actions import with_returned
from worker.core.clock import NS_PER_S
from worker.core.errors import DeviceUnavailableError
from worker.stream.work import Call
from worker.workers import analytics


class Asked:
    """An instructor over a machine, and what it answers."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._instructor = instructor_over(machine)
        self._call = Call(machine.token(), lambda _completed, _total: None)

    def ask(self, action: str, **data: Any) -> Any:
        """Have a request answered."""
        return self._instructor.prepare(action, data).run(self._call)

    def done(self) -> dict[str, int]:
        """Return what was carried out."""
        return self.machine.history.interventions()


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Return one over a device of 32 MiB with a model of 8."""
    write_model(tmp_path / "m.safetensors", 8 * MIB)
    model = spec(tmp_path / "m.safetensors", device_id="sim:0")
    return Asked(Machine(tmp_path, SimulatedDevice(32 * MIB), models=(model,)))


@pytest.mark.parametrize("action", ["memory.optimize", "memory.model_optimize"])
def test_a_dry_run_was_not_carried_out(asked: Asked, action: str) -> None:
    """Nothing is noted of what would be done, and it is of what is."""
    asked.ask(action, dry_run=True)
    assert asked.done() == {}
    asked.ask(action)
    assert asked.done() == {action: 1}


def test_what_fails_was_not_carried_out(asked: Asked) -> None:
    """A refusal is noted as such, elsewhere."""
    asked.machine.manager.lose_device("sim:0", "gone")
    with pytest.raises(DeviceUnavailableError):
        asked.ask("memory.clear", device_id="sim:0")
    assert asked.done() == {}
    asked.ask("memory.clear")
    assert asked.done() == {"memory.clear": 1}


def test_claimed_and_returned_are_told_beside_each_other(asked: Asked) -> None:
    """What should have been freed, and what came back of it."""
    asked.machine.load("m")
    asked.machine.pass_time(61 * NS_PER_S)
    outcome = asked.ask("memory.optimize", device_id="sim:0", optimization_level="aggressive")
    assert isinstance(outcome, OptimizeResult)
    assert outcome.claimed_bytes == outcome.returned_bytes == 8 * MIB


@pytest.mark.parametrize(
    ("claimed", "returned", "said"),
    [(8, 8, "why"), (8, None, "why"), (None, 3, "why"), (8, 3, "why; 3 bytes came back of 8")],
)
def test_a_reason_says_where_they_differ(claimed: int | None, returned: int | None, said: str) -> None:
    """Only what was measured, and is not what was claimed, is worth a word."""
    assert with_returned("why", claimed, returned) == said


def test_a_full_device_says_who_alone_can_free_it(asked: Asked) -> None:
    """At critical, with nothing to recommend, what holds the memory is listed, the largest first."""
    machine = asked.machine
    machine.load("m", pin=True)
    for _ in range(2):
        machine.allocate("sim:0", 6 * MIB, owner="llm", purpose="kv")
    machine.pass_time(NS_PER_S)
    machine.allocate("sim:0", 11 * MIB, owner="vae", lease_ns=60 * NS_PER_S)
    machine.allocate("sim:0", 3 * MIB, owner="host", memory_type=MemoryType.EXTERNAL)
    (row,) = asked.ask("memory.get_pressure", device_id="sim:0").devices
    assert (row.pressure_level, row.recommended_actions) == (PressureLevel.CRITICAL, ())
    told = [
        (each.owner, each.purpose, each.bytes, each.allocation_count, each.freed_by) for each in row.held_by
    ]
    assert told == [
        ("llm", "kv", 12 * MIB, 2, FreedBy.OWNER),
        ("vae", None, 11 * MIB, 1, FreedBy.LEASE),
        ("m", "model", 8 * MIB, None, FreedBy.USE),
        ("host", None, 3 * MIB, 1, FreedBy.HOST),
    ]
    assert [each.oldest_age_ms for each in row.held_by] == [1000, 0, None, 0]
    assert not any(each.suspected for each in row.held_by)
    machine.booked.configure("m", pinned=False, keep_alive_ns=None)
    (row,) = asked.ask("memory.get_pressure", device_id="sim:0").devices
    assert {each.freed_by for each in row.held_by if each.purpose == "model"} == {FreedBy.WORKER}
    assert row.recommended_actions


def test_what_would_help_is_worked_out_once(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer about one device looks for what helps there once, however many fields it has."""
    known, looked = analytics.recommend, list[str]()

    def counting(device_id: str, *more: Any) -> Any:
        looked.append(device_id)
        return known(device_id, *more)

    monkeypatch.setattr(analytics, "recommend", counting)
    asked.ask("memory.get_pressure", device_id="sim:0")
    assert looked == ["sim:0"]
    asked.ask("memory.get_pressure")
    assert sorted(looked[1:]) == ["cpu", "sim:0"]
