"""A host and a worker of different versions of protocol 1: what is new is read as such, what is missing as null."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from protocol.actions import ACTIONS, EVENTS
from protocol.generators.model import Field, Record, contract, resolve
from tests.e2e.csharp.host import (
    Make,
    Watched,
    answer,
    ask,
    call,
    execute,
    fake,
    make,
    progress_into,
    until,
    wait,
)
from tests.e2e.csharp.test_events import Reading, lost, pressure
from tests.e2e.csharp.test_samples import SAMPLES, samples
from tests.e2e.csharp.wire import round_trip, same
from tests.rigs.dotnet import runtime

__all__ = ["fake"]

Json = dict[str, Any]

NEW_WORD = "brand_new"
RECORDS, ENUMS = contract()
ANSWERS = {kind.__name__ for kind in EVENTS.values()} | {
    action.result.__name__ for action in ACTIONS.values()
}


def recorded(name: str) -> Json:
    """Return a shared sample."""
    found: Json = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def answers() -> list[Path]:
    """Return the shared samples of what a worker writes."""
    return [sample for sample in samples("valid") if sample.stem.partition("-")[0] in ANSWERS]


def places(name: str, value: Any) -> Iterator[tuple[Json, Field]]:
    """Yield each field of a document, wherever it is nested, with the object that holds it."""
    for field in RECORDS[name].fields:
        if field.name in value:
            yield value, field
            yield from _within(field.schema, value[field.name])


def _within(schema: Json, value: Any) -> Iterator[tuple[Json, Field]]:
    if isinstance(value, list):
        for one in value:
            yield from _within(schema["items"], one)
    elif isinstance(value, dict) and (name := resolve(schema)) in RECORDS:
        yield from places(str(name), value)


@pytest.mark.parametrize("sample", answers(), ids=lambda sample: sample.stem)
def test_an_unknown_word_is_unknown_and_its_text_is_kept(protocol: ModuleType, sample: Path) -> None:
    """Every word of every answer may be a new one: it is read, and written back as it came."""
    name, document = sample.stem.partition("-")[0], json.loads(sample.read_text(encoding="utf-8"))
    for holder, field in list(places(name, document)):
        if resolve(field.schema) in ENUMS and holder[field.name] is not None:
            holder[field.name] = NEW_WORD
        elif resolve(field.schema.get("items", {})) in ENUMS and holder[field.name]:
            holder[field.name][-1] = NEW_WORD
    assert same(round_trip(protocol, name, json.dumps(document), strict=False), document)


@pytest.mark.parametrize("sample", answers(), ids=lambda sample: sample.stem)
def test_a_missing_field_is_null(protocol: ModuleType, sample: Path) -> None:
    """Whatever can be null, or came after the first release, may be missing; strictly, nothing may."""
    from System.Text.Json import JsonException

    name, text = sample.stem.partition("-")[0], sample.read_text(encoding="utf-8")
    document, expected = json.loads(text), json.loads(text)
    gone = False
    for (holder, field), (kept, _) in list(zip(places(name, document), places(name, expected), strict=True)):
        if field.nullable or field.added:
            del holder[field.name]
            gone = gone or field.required  # what has a default may be missing even strictly
            if field.nullable and field.required:
                kept[field.name] = None
            else:
                del kept[field.name]
    assert same(round_trip(protocol, name, json.dumps(document), strict=False), expected)
    if gone:
        with pytest.raises(JsonException, match="is missing"):
            round_trip(protocol, name, json.dumps(document))


def test_a_field_that_came_later_can_be_null_in_csharp(protocol: ModuleType) -> None:
    """Its property is nullable, whatever its type."""
    from System import Nullable

    def later(records: dict[str, Record]) -> Iterator[tuple[str, Field]]:
        for one in records.values():
            yield from ((one.name, field) for field in one.fields if field.added and field.required)

    found = list(later(RECORDS))
    assert ("ClearResult", "allocation_ids") in [(name, field.name) for name, field in found]
    for name, field in found:
        prop = _property(getattr(protocol, name), field.name)
        assert not prop.PropertyType.IsValueType or Nullable.GetUnderlyingType(prop.PropertyType) is not None


def _property(kind: Any, field: str) -> Any:
    import clr

    return clr.GetClrType(kind).GetProperty("".join(part.capitalize() for part in field.split("_")))


# ---- a worker that sends one of each ------------------------------------------------------------


@pytest.fixture
def newer(fake: Make, tmp_path: Path) -> Any:
    """Return ServiceMemory and its service on a worker whose answers hold one of each thing that is new."""
    from MemoryWorker.Client import ServiceMemory

    status = recorded("GetStatusResult-valid-recorded")
    status["pressure_level"] = "apocalyptic"
    status["forecast"] = {"of": ["another", "version"]}
    device = status["devices"][0]
    device |= {"state": "hibernating", "kind": "npu", "budget_source": "crystal_ball", "heat": 451}
    del device["total_bytes"]
    hello = recorded("HelloResult-valid-recorded")
    hello["actions"].append("memory.hibernate")
    hello["limits"] |= {"max_frame_bytes": 2**24, "max_inflight": 64, "max_moods": 3}
    allocated = recorded("AllocateResult-valid-recorded") | {"memory_type": "holographic"}
    answers = {"memory.get_status": status, "worker.hello": hello, "memory.allocate": allocated}
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers))
    service = fake("--answers", str(file))
    return ServiceMemory(service), service


def test_new_words_and_missing_fields_in_an_answer(newer: Any) -> None:
    """Words are ``Unknown`` and their texts are there; what is missing is null; what is not known is skipped."""
    memory, service = newer
    status = wait(memory.GetMemoryStatusAsync())
    device = status.Devices[0]
    assert (device.State.ToString(), device.Kind.ToString()) == ("Unknown", "Unknown")
    assert {one.Key: one.Value for one in device.UnknownWords} == {
        "state": "hibernating",
        "kind": "npu",
        "budget_source": "crystal_ball",
    }
    assert device.TotalBytes is None
    assert (status.PressureCategory.ToString(), status.UnknownWords["pressure_level"]) == (
        "Unknown",
        "apocalyptic",
    )
    assert status.Host.TotalBytes is not None
    assert service.Snapshot.JunkLines == 0


def test_a_new_word_goes_on_to_the_contract(newer: Any) -> None:
    """What the service answers keeps the text, too."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    memory, _ = newer
    made = wait(memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=1)))
    assert (made.MemoryType.ToString(), made.UnknownWords["memory_type"]) == ("Unknown", "holographic")


def test_a_new_action_can_be_asked_for(newer: Any) -> None:
    """The worker's list says that it is there; it takes and answers plain JSON."""
    memory, service = newer
    assert "memory.hibernate" in list(wait(memory.GetWorkerAsync()).Actions)
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_a_new_error_code_keeps_its_text(newer: Any) -> None:
    """The code is ``Unknown`` as an enum and itself as text; executed and retryable are what the worker says."""
    from MemoryWorker.Client import WorkerRequestException

    _, service = newer
    with pytest.raises(WorkerRequestException, match="told to: gone_fishing") as caught:
        ask(service, "fake.refuse", code="gone_fishing")
    error = caught.value
    assert (error.ErrorCode.ToString(), error.Code) == ("Unknown", "gone_fishing")
    with pytest.raises(WorkerRequestException) as caught:
        ask(service, "fake.refuse", code="model_busy")
    assert (caught.value.ErrorCode.ToString(), caught.value.Code) == ("ModelBusy", "model_busy")


def test_a_new_event_is_no_lost_device(newer: Any) -> None:
    """An event without a type has its name and its data; new words in a known one are ``Unknown``."""
    _, service = newer
    reading = Reading(service, "MemoryPressureChanged", "DeviceLost", "Unknown")
    until(lambda: ask(service, "fake.subscribed")["events"] == ["memory.pressure_changed", "device.lost"])
    strange = pressure(1)
    strange["data"]["to"] = "apocalyptic"
    moved = {"event": "device.moved_out", "data": {"device_id": "cpu", "to": "another node"}}
    ask(service, "fake.events", events=[strange, moved, lost()])
    one, two, three = reading.wait_for(3)
    assert (one.Data.To.ToString(), one.Data.UnknownWords["to"]) == ("Unknown", "apocalyptic")
    assert (type(two).__name__, two.Text, two.Data.GetProperty("to").GetString()) == (
        "UnknownEvent",
        "device.moved_out",
        "another node",
    )
    assert type(three).__name__ == "DeviceLostEvent"
    assert service.Snapshot.JunkLines == 0
    reading.stop()


def test_a_new_event_about_a_request_is_not_its_progress(fake: Make) -> None:
    """It is ignored: the call goes on to its answer, and nothing counts as junk."""
    from MemoryWorker.Client.Protocol import ProgressData

    service, seen = fake(), list[Any]()
    event = '{"event":"thought","request_id":"ID","sequence":1,"data":{"text":"hm"}}'
    answered = '{"request_id":"ID","success":true,"data":{"value":1}}'
    progress = progress_into(ProgressData, seen)
    assert answer(call(service, "fake.lines", progress=progress, lines=[event, answered])) == {"value": 1}
    assert (seen, service.Snapshot.JunkLines) == ([], 0)


def test_an_older_worker_is_asked_for_the_events_it_has(fake: Make) -> None:
    """A reader of everything gets what there is; one of nothing but newer events learns that there are none."""
    from MemoryWorker.Client import ServiceMemory, WorkerRequestException
    from MemoryWorker.Client.Protocol import EventName
    from System import Array

    service = fake("--events", "device.lost", "memory.optimized")
    stream = runtime.iterate(ServiceMemory(service).GetMemoryEventsAsync())
    reader = threading.Thread(target=lambda: seen.append(next(stream)))
    seen: list[Any] = []
    reader.start()
    until(lambda: ask(service, "fake.subscribed")["events"] == ["memory.optimized", "device.lost"])
    ask(service, "fake.events", events=[lost()])
    reader.join(30)
    stream.close()
    assert [type(one).__name__ for one in seen] == ["DeviceLostEvent"]
    newer_only = runtime.iterate(service.ReadEventsAsync(Array[EventName]([EventName.DeviceRecovered])))
    with pytest.raises(WorkerRequestException, match="invalid_request"):
        next(newer_only)


def test_unknown_cannot_be_sent(newer: Any) -> None:
    """There is no word for it: the call fails before it is sent, and says which words there are."""
    import System
    from MemoryWorker.Client import PostMemoryAllocateRequest
    from MemoryWorker.Client.Protocol import MemoryType

    memory, service = newer
    request = make(PostMemoryAllocateRequest, SizeBytes=1, MemoryType=MemoryType.Unknown)
    with pytest.raises(System.ArgumentOutOfRangeException, match="none of device, host"):
        wait(memory.PostMemoryAllocateAsync(request))
    until(lambda: service.Snapshot.InFlight == 0)
    assert ask(service, "fake.echo", value=1)["value"] == 1


# ---- what a clear freed -------------------------------------------------------------------------


def test_what_a_clear_does_not_list_is_asked_for(fake: Make, tmp_path: Path) -> None:
    """A worker that does not say what it freed: what its own list lacks is gone, what is on it is not."""
    journal = tmp_path / "journal"
    service = fake("--journal", str(journal))
    assert lost_after_a_clear(service, journal) == ["theirs"]


def lost_after_a_clear(service: Any, journal: Path) -> list[str]:
    """Allocate for two owners, clear one, kill the worker; return whose allocations were lost."""
    from MemoryWorker.Client.Protocol import AllocateParams, ClearParams, WireActions

    exited = Watched(service, "WorkerExited")
    for owner in ("mine", "theirs", "mine"):
        wait(execute(service, WireActions.Allocate, make(AllocateParams, SizeBytes=8, Owner=owner)))
    wait(execute(service, WireActions.Clear, make(ClearParams, Owner="mine")))
    until(lambda: "memory.get_allocations" in journal.read_text())
    for _ in range(
        20
    ):  # so that the list was answered, too, and taken in: by a thread of the pool, before one has had many turns
        wait(call(service, "worker.ping"))
    psutil.Process(service.Snapshot.ProcessId).kill()
    return [one.Owner for one in exited.next().LostAllocations]
