"""Records and errors as plain JSON values, and back. Each side trusts only what has the right shape."""

from dataclasses import MISSING, fields, replace
from enum import Enum
from typing import Any

from protocol.results import Fragmentation, SharedMemory
from protocol.vocabulary import (
    DeviceKind,
    DeviceState,
    Executed,
    Initialize,
    MemoryType,
    SharedMemoryKind,
    Source,
)
from worker.core import errors
from worker.core.records import (
    AllocationRequest,
    Block,
    Defragmented,
    DeviceInfo,
    Readings,
    Signal,
    SignalKind,
)

_CLASSES = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.WorkerError) and hasattr(kind, "code")
    if kind
    not in {
        errors.DeviceLostError,
        errors.EngineLostError,
        errors.InvalidRequestError,
        errors.NoFileRoomError,
    }
}


_REQUIRED = object()
_USUAL = {each.name: each.default for each in fields(AllocationRequest) if each.default is not MISSING}


class RemoteError(RuntimeError):
    """What was raised in the device's process and has no wire code."""

    def __init__(self, kind: str, message: str, module: str | None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.module = module
        """The module that was not found, for a ModuleNotFoundError."""


def packed(value: Any) -> Any:
    """Return a result as plain values: records as their fields, sets and tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset | tuple):
        return [packed(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: packed(field) for name, field in vars(value).items()}
    return value


def packed_request(request: AllocationRequest) -> dict[str, Any]:
    """Return what is asked of a device, without what most requests leave as it is. Words are strings already."""
    return {name: value for name, value in vars(request).items() if value is not _USUAL.get(name, _REQUIRED)}


def request_of(data: dict[str, Any]) -> AllocationRequest:
    """Return what is asked of a device."""
    request = AllocationRequest(**data)
    if "memory_type" in data:
        request = replace(request, memory_type=MemoryType(data["memory_type"]))
    if "initialize" in data:
        request = replace(request, initialize=Initialize(data["initialize"]))
    return request


def infos_of(data: list[dict[str, Any]]) -> tuple[DeviceInfo, ...]:
    """Return devices."""
    return tuple(
        DeviceInfo(
            **(
                each
                | {
                    "kind": DeviceKind(each["kind"]),
                    "state": DeviceState(each["state"]),
                    "displaced": frozenset(each["displaced"]),
                }
            )
        )
        for each in data
    )


_SOURCES = ("budget_source", "total_source", "used_source", "process_used_source")


def readings_of(data: dict[str, Any]) -> Readings:
    """Return readings."""
    pieces = data["fragmentation"]
    sources = {name: data[name] and Source(data[name]) for name in _SOURCES}
    return Readings(
        **(
            data
            | sources
            | {
                "fragmentation": None if pieces is None else Fragmentation(**pieces),
                "signals": tuple(map(_signal_of, data["signals"])),
            }
        )
    )


def _signal_of(data: dict[str, Any]) -> Signal:
    return Signal(**(data | {"source": Source(data["source"]), "kind": SignalKind(data["kind"])}))


def block_of(data: dict[str, Any]) -> Block:
    """Return what a device made."""
    shared = data["shared_memory"]
    if shared is not None:
        shared = SharedMemory(**(shared | {"kind": SharedMemoryKind(shared["kind"])}))
    return Block(data["actual_bytes"], shared)


def defragmented_of(data: dict[str, Any] | None) -> Defragmented | None:
    """Return what a compaction did."""
    return None if data is None else Defragmented(**data)


def packed_error(error: BaseException) -> dict[str, Any]:
    """Return an error as plain values; one without a wire code by its type's name."""
    if not isinstance(error, errors.WorkerError):
        module = error.name if isinstance(error, ModuleNotFoundError) else None
        return {"type": type(error).__name__, "message": str(error), "module": module}
    return {
        "code": error.code,
        "lost": isinstance(error, errors.DeviceLostError),
        "message": error.message,
        "executed": error.executed,
        "details": error.details,
    }


def error_of(data: dict[str, Any]) -> Exception:
    """Return an error to raise. What has no wire code is a KeyError, the caller's bug, or a RemoteError."""
    if "code" not in data:
        if data["type"] == "KeyError":
            return KeyError(data["message"])
        return RemoteError(data["type"], data["message"], data["module"])
    if data["code"] == errors.InvalidRequestError.code:
        return errors.InvalidRequestError(data["details"]["errors"])
    kind = errors.DeviceLostError if data["lost"] else _CLASSES[data["code"]]
    error = kind(data["message"], **data["details"])
    error.executed = Executed(data["executed"])
    return error
