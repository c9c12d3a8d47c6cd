"""Replies are read so that the contract may grow."""

from typing import Any

import pytest

from protocol.contract import contract_types
from protocol.events import EVENTS
from protocol.results import AllocateResult, DeviceStatus, GetStatusResult, PressureChangedData
from protocol.vocabulary import ErrorCode, Executed, MemoryType, PressureLevel
from worker.client.calls import UnknownCodeError, error_of
from worker.client.values import read
from worker.core.errors import InvalidRequestError, OutOfMemoryError, WorkerError

ALLOCATED: dict[str, Any] = {
    "allocation_id": "alloc-1", "device_id": "cpu", "memory_type": "device", "size_bytes": 5,
    "actual_bytes": 4096, "shared_memory": {"path": "/x", "size_bytes": 5}, "available_bytes": None,
    "models_unloaded": [],
}  # fmt: skip


def test_a_reply_is_the_contracts_record() -> None:
    """Every field has its type, down to the records and words inside."""
    found = read(AllocateResult, ALLOCATED)
    assert found.memory_type is MemoryType.DEVICE
    assert found.shared_memory.path == "/x"
    assert found.models_unloaded == ()
    assert found.available_bytes is None


def test_what_a_newer_worker_adds() -> None:
    """An unknown field is passed over; an unknown word stays the text that it is."""
    found = read(AllocateResult, ALLOCATED | {"memory_type": "quantum", "invented": {"a": [1]}})
    assert found.memory_type == "quantum"
    assert not hasattr(found, "invented")


def test_what_an_older_worker_lacks() -> None:
    """A missing field is None, in records inside as well."""
    found = read(GetStatusResult, {"devices": [{"device_id": "cpu"}]})
    (device,) = found.devices
    assert isinstance(device, DeviceStatus)
    assert device.device_id == "cpu"
    assert device.total_bytes is None


def test_an_object_that_is_no_record() -> None:
    """An event whose field is a Python keyword is a dict of the same values."""
    found = read(PressureChangedData, {"from": "low", "to": "higher", "device_id": "cpu", "more": 1})
    assert found["from"] is PressureLevel.LOW
    assert found["to"] == "higher"
    assert found["pressure_percentage"] is None


@pytest.mark.parametrize("name", [name for name in contract_types() if name.endswith(("Result", "Data"))])
def test_every_type_is_read_from_nothing(name: str) -> None:
    """Whatever is left out of whatever type, it is read."""
    read(contract_types()[name], {})


def test_events_are_in_the_table() -> None:
    """Each name has a type that can be read."""
    assert all(read(kind, {}) is not None for kind in EVENTS.values())


def test_errors_are_the_workers_own() -> None:
    """A refusal is raised as the class that the worker raised, with its details, what was done, and whether to try again."""
    body = {
        "code": "out_of_memory",
        "message": "no",
        "executed": "yes",
        "retryable": False,  # it could never fit, while most of that code may later
        "details": {"a": 1},
    }
    error = error_of(body)
    assert type(error) is OutOfMemoryError
    assert (error.message, error.executed, error.details) == ("no", Executed.YES, {"a": 1})
    assert error.retryable is False
    assert error_of({**body, "retryable": "perhaps"}).retryable is True
    errors = [{"path": "data.x", "message": "wrong"}]
    invalid = error_of({"code": "invalid_request", "message": "m", "details": {"errors": errors}})
    assert type(invalid) is InvalidRequestError


@pytest.mark.parametrize("body", [{}, {"code": "brand_new", "message": "m"}, {"details": 5, "executed": []}])
def test_errors_of_another_version(body: dict[str, Any]) -> None:
    """A code that is unknown, or a body that is none, is an error all the same, with its word kept."""
    error = error_of(body)
    assert isinstance(error, UnknownCodeError)
    assert error.word == str(body.get("code"))


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_class(code: ErrorCode) -> None:
    """No code of the contract is unknown to the client."""
    error = error_of({"code": code, "message": "m", "executed": "no", "details": {}})
    assert isinstance(error, WorkerError)
    assert type(error) is not UnknownCodeError
    assert error.code is code
