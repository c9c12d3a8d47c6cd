"""What is noted beside the decisions: on change, once a tick, with what was only there in between."""

from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import EventName
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.clock import NS_PER_S
from worker.core.records import OwnerFlow
from worker.export.recorder import Recorder, owner_rows


class Watched:
    """A machine and what is noted of it."""

    def __init__(self, folder: Path) -> None:
        write_model(folder / "m.safetensors", 3 * MIB)
        models = (spec(folder / "m.safetensors", device_id="sim:0"),)
        self.machine = Machine(folder, SimulatedDevice(64 * MIB), models=models)
        self.notes: list[dict[str, Any]] = []
        machine = self.machine
        self.recorder = Recorder(self.notes.append, machine.core, machine.memory, machine.parts.trends)

    def tick(self) -> list[dict[str, Any]]:
        """Let a second pass. Returns what is noted then."""
        before = len(self.notes)
        self.machine.pass_time(NS_PER_S)
        self.machine.memory.tick()
        self.recorder.tick()
        return self.notes[before:]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Return a machine that is watched, past its first notes."""
    watched = Watched(tmp_path)
    watched.tick()
    return watched


def test_what_does_not_change_is_not_noted_again_for_half_a_minute(watched: Watched) -> None:
    """A quiet worker writes two lines a minute and device."""
    notes = [note for _ in range(59) for note in watched.tick() if "sample" in note]
    assert len(notes) == 2  # one for each device


def test_a_change_is_noted_once_with_its_owner(watched: Watched) -> None:
    """The sample says who has what now, and what was ever made."""
    first = watched.machine.allocate("sim:0", 5 * MIB, owner="kv")
    watched.machine.memory.allocations.deallocate(first, force=False)
    watched.machine.allocate("sim:0", 2 * MIB, owner="kv")
    (note,) = watched.tick()
    assert (note["sample"], note["allocated_bytes"], note["peak_bytes"]) == ("sim:0", 2 * MIB, 5 * MIB)
    assert note["owners"] == [
        {
            "owner": "kv",
            "allocated_bytes": 2 * MIB,
            "allocation_count": 1,
            "made_bytes": 7 * MIB,
            "made_count": 2,
        }
    ]
    (after,) = watched.tick()  # the peak is over, which is a change
    assert after["peak_bytes"] == 2 * MIB
    assert watched.tick() == []


def test_what_came_and_went_between_two_ticks_is_noted(watched: Watched) -> None:
    """Nothing is left of it, but it was there."""
    watched.machine.memory.allocations.deallocate(watched.machine.allocate("sim:0", 9 * MIB), force=False)
    (note,) = watched.tick()
    assert (note["allocated_bytes"], note["peak_bytes"]) == (0, 9 * MIB)


def test_models_are_noted_by_state(watched: Watched) -> None:
    """Once a state, a use count or a pin changed, and not for the time that passes."""
    watched.machine.load("m")
    states = [note["model_states"] for note in watched.tick() if "model_states" in note]
    assert [(row["model_id"], row["state"], row["bytes"]) for row in states[0]] == [("m", "loaded", 3 * MIB)]
    assert not any("model_states" in note for note in watched.tick())


def test_refusals_and_what_was_done_are_noted_once(watched: Watched) -> None:
    """Each with its time, its code and its reason."""
    history = watched.machine.history
    history.record_refusal("memory.allocate", "out_of_memory", "no room", "sim:0")
    history.record_intervention("memory.clear")
    notes = watched.tick()
    assert [note.get("refused") or note.get("done") for note in notes] == ["memory.allocate", "memory.clear"]
    assert (notes[0]["code"], notes[0]["reason"], notes[0]["device_id"]) == (
        "out_of_memory",
        "no room",
        "sim:0",
    )
    assert watched.tick() == []


def test_events_and_the_end(watched: Watched) -> None:
    """An event is noted as a subscriber sees it; the last lines say how it stood."""
    watched.recorder.event(EventName.DEVICE_LOST, {"device_id": "sim:0"})
    assert watched.notes[-1]["event"] == "device.lost"
    watched.recorder.finish()
    kinds = [next(iter(note)) for note in watched.notes[-4:]]
    assert kinds == ["sample", "sample", "actions", "end"]


def test_a_sample_says_why_its_level_is_what_it_is(watched: Watched) -> None:
    """The signals above low, with their figures; nothing where all is calm."""
    assert [note["signals"] for note in watched.notes if note.get("sample") == "sim:0"][-1] == []
    watched.machine.allocate("sim:0", 58 * MIB)
    (note,) = watched.tick()
    assert note["pressure_level"] == "high"
    assert note["signals"] == [{"name": "budget_used_percentage", "value": 90.625, "level": "high"}]


def _run_out(watched: Watched, seconds: int) -> list[dict[str, Any]]:
    """Take a mebibyte a second. Returns the samples of the device."""
    notes = []
    for _ in range(seconds):
        watched.machine.allocate("sim:0", MIB)
        watched.machine.memory.sample()
        notes += [note for note in watched.tick() if note.get("sample") == "sim:0"]
    return notes


def test_a_sample_has_the_trend(watched: Watched) -> None:
    """How fast, and when it is full with an interval; a change of that alone is worth a line, too."""
    grown = _run_out(watched, 40)
    trend = grown[-1]["trend"]
    assert trend.bytes_per_second == pytest.approx(MIB, rel=0.1)
    assert trend.low_seconds <= trend.seconds_to_exhaustion <= trend.high_seconds
    assert trend.seconds_to_exhaustion == pytest.approx(24, rel=0.2)

    def rest() -> list[dict[str, Any]]:
        watched.machine.memory.sample()
        return [note for note in watched.tick() if note.get("sample") == "sim:0"]

    after = [note for _ in range(29) for note in rest()]
    assert {note["allocated_bytes"] for note in after} == {40 * MIB}
    assert after[-1]["trend"].seconds_to_exhaustion is None
    assert len([note for _ in range(30) for note in rest()]) <= 2  # and then it is quiet


def test_events_that_a_machine_tells_are_noted_as_they_are(watched: Watched) -> None:
    """The record has what a subscriber has, of every kind."""
    for name in EventName:
        watched.recorder.event(name, {"device_id": "sim:0"})
    assert [note["event"] for note in watched.notes[-len(EventName) :]] == list(EventName)


def test_owners_are_bounded() -> None:
    """A thousand owners are twelve rows and one."""
    rows = owner_rows(tuple(OwnerFlow(f"o{n}", 1000 - n, 1, 1000, 2) for n in range(1000)))
    assert len(rows) == 13
    assert rows[-1]["others"] == 988
    assert sum(row["allocated_bytes"] for row in rows) == sum(range(1, 1001))
