"""Records and errors as plain JSON values, and back. Each side trusts only what has the right shape."""

from dataclasses import fields
from enum import Enum
from operator import attrgetter
from typing import Any

from protocol.vocabulary import (
    DeviceKind,
    DeviceState,
    Executed,
    Initialize,
    MemoryType,
    SharedMemoryKind,
    Source,
)
from worker.backends.isolation.frames import line, loads
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


_MEMORY_TYPES = {each.value: each for each in MemoryType}
_PLAIN = {int, float, bool, type(None)}
_INITIALIZE = {each.value: each for each in Initialize}


class RemoteError(RuntimeError):
    """What was raised in the device's process and has no wire code."""

    def __init__(self, kind: str, message: str, module: str | None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.module = module
        """The module that was not found, for a ModuleNotFoundError."""


def packed(value: Any) -> Any:
    """Return a result as plain values: records as their fields, sets and tuples as lists."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset | tuple):
        return [packed(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: packed(field) for name, field in vars(value).items()}
    return value


def packed_request(request: AllocationRequest) -> tuple[Any, ...]:
    """Return what of a request is a device's to know: for what, whose and for how long is the ledger's. Words are strings."""
    return (
        request.device_id,
        request.size_bytes,
        request.memory_type,
        request.initialize,
        request.alignment,
        request.overwritten,
    )


def request_of(data: list[Any]) -> AllocationRequest:
    """Return what is asked of a device."""
    device_id, size_bytes, memory_type, initialize, alignment, overwritten = data
    kind, filled = _MEMORY_TYPES[memory_type], _INITIALIZE[initialize]
    return AllocationRequest(
        device_id, size_bytes, kind, filled, alignment, None, None, False, None, overwritten,  # noqa: FBT003 - by name it takes twice as long
    )  # fmt: skip


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


_READINGS = tuple(each.name for each in fields(Readings))
_readings_fields = attrgetter(*_READINGS)
_SOURCES = {each.value: each for each in Source}


def packed_readings(readings: Readings) -> list[Any]:
    """Return readings in the order of their fields."""
    return [each if type(each) in _PLAIN else packed(each) for each in _readings_fields(readings)]


def readings_of(data: list[Any]) -> Readings:
    """Return readings."""
    values = dict(zip(_READINGS, data, strict=True))
    for name in ("budget_source", "total_source", "used_source", "process_used_source"):
        values[name] = values[name] and _SOURCES[values[name]]
    pieces = values["fragmentation"]
    if pieces is not None:
        from protocol.results import Fragmentation  # noqa: PLC0415 - 10 ms that a device's process does not need

        values["fragmentation"] = Fragmentation(**pieces)
    values["signals"] = tuple(map(_signal_of, values["signals"]))
    return Readings(**values)


def readings_text(readings: Readings) -> bytes:
    """Return readings as text."""
    return line(packed_readings(readings))


def readings_in(text: bytes) -> Readings:
    """Return readings that were written as text."""
    return readings_of(loads(text))


def _signal_of(data: dict[str, Any]) -> Signal:
    return Signal(**(data | {"source": Source(data["source"]), "kind": SignalKind(data["kind"])}))


def packed_block(block: Block) -> int | list[Any]:
    """Return what a device made."""
    shared = block.shared_memory
    return block.actual_bytes if shared is None else [block.actual_bytes, packed(shared)]


def block_of(data: int | list[Any]) -> Block:
    """Return what a device made."""
    if isinstance(data, int):
        return Block(data)
    from protocol.results import SharedMemory  # noqa: PLC0415 - as above

    actual_bytes, shared = data
    return Block(actual_bytes, SharedMemory(**(shared | {"kind": SharedMemoryKind(shared["kind"])})))


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
        return errors.InvalidRequestError(**data["details"])
    kind = errors.DeviceLostError if data["lost"] else _CLASSES[data["code"]]
    error = kind(data["message"], **data["details"])
    error.executed = Executed(data["executed"])
    return error
