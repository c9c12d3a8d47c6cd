"""DXCore: the adapters in torch_directml's order, what each has, and what it grants and holds now.

State 1 is about the calling process, so it is asked in the process that holds the memory. States 2 and 3
(the whole adapter, any process) exist on newer Windows only.
"""

import ctypes
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from enum import IntEnum
from typing import Any, Final

from protocol.record import Record
from worker.telemetry.com import ComError, ComObject, Guid, Luid, Pointer, function_type, make

LIBRARY: Final = "dxcore.dll" if sys.platform == "win32" else "libdxcore.so"

IID_FACTORY: Final = "78ee5945-c36e-4b13-a669-005dd11c0f06"
IID_LIST: Final = "526c7776-40e9-459b-b711-f32ad76dfc28"
IID_ADAPTER: Final = "f0db4c7f-fe5a-42a2-bd62-f2a6cf6fc83e"
D3D12_CORE_COMPUTE: Final = "248e2800-a793-4724-abaa-23a6de1be090"

D3D12_GENERIC_ML: Final = "b71b0d41-1088-422f-a27c-0250b7d3a988"

_CREATE_ADAPTER_LIST: Final = 3
_IS_NOTIFICATION_TYPE_SUPPORTED, _REGISTER_EVENT_NOTIFICATION, _UNREGISTER_EVENT_NOTIFICATION = 5, 6, 7
_GET_ADAPTER, _GET_ADAPTER_COUNT, _SORT = 3, 4, 7
_GET_PROPERTY, _GET_PROPERTY_SIZE, _IS_QUERY_STATE_SUPPORTED, _QUERY_STATE = 6, 7, 8, 9
_HIGH_PERFORMANCE: Final = 2
_ADAPTER_BUDGET_CHANGE: Final = 2

_Notification = function_type(None, ctypes.c_uint32, Pointer, Pointer)
"""PFN_DXCORE_NOTIFICATION_CALLBACK: what it is about, the adapter, and nothing of ours."""


class _Property(IntEnum):
    LUID = 0
    DRIVER_DESCRIPTION = 2
    DEDICATED_ADAPTER_MEMORY = 7
    SHARED_SYSTEM_MEMORY = 9
    IS_HARDWARE = 11
    IS_INTEGRATED = 12


class _State(IntEnum):
    ADAPTER_MEMORY_BUDGET = 1
    ADAPTER_MEMORY_USAGE = 2
    PROCESS_MEMORY_USAGE = 3


class Segment(IntEnum):
    """LOCAL is the adapter's own memory (on integrated ones: the system's); NON_LOCAL the system's."""

    LOCAL = 0
    NON_LOCAL = 1


class BudgetAnswer(ctypes.Structure):
    """DXCoreAdapterMemoryBudget."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("budget", "usage", "reservable", "reserved"))


class UsageAnswer(ctypes.Structure):
    """DXCoreMemoryUsage."""

    _fields_ = (("committed", ctypes.c_uint64), ("resident", ctypes.c_uint64))


class ProcessUsageAnswer(ctypes.Structure):
    """DXCoreProcessMemoryQueryOutput."""

    _fields_ = (("usage", UsageAnswer), ("found", ctypes.c_bool))


assert (ctypes.sizeof(BudgetAnswer), ctypes.sizeof(UsageAnswer)) == (32, 16)  # noqa: S101 - the system writes this many
assert (ctypes.sizeof(ProcessUsageAnswer), ProcessUsageAnswer.found.offset) == (24, 16)  # noqa: S101 - as above


class Budget(Record):
    """Bytes that the system grants the calling process now, and those that it holds."""

    budget_bytes: int
    usage_bytes: int


class Adapter:
    """One adapter; closed with its list."""

    def __init__(self, adapter: ComObject) -> None:
        self._adapter = adapter
        self.luid = self._property(_Property.LUID, Luid())
        self.name: str = self._text(_Property.DRIVER_DESCRIPTION)
        self.is_hardware = bool(self._property(_Property.IS_HARDWARE, (ctypes.c_bool * 1)())[0])
        self.is_integrated = bool(self._property(_Property.IS_INTEGRATED, (ctypes.c_bool * 1)())[0])
        self.dedicated_bytes = self._bytes(_Property.DEDICATED_ADAPTER_MEMORY)
        self.shared_bytes = self._bytes(_Property.SHARED_SYSTEM_MEMORY)

    @property
    def total_bytes(self) -> int:
        """What it can address: its own memory, and where it shares the system's, that too."""
        return self.dedicated_bytes + (self.shared_bytes if self.is_integrated else 0)

    def budget(self, segment: Segment = Segment.LOCAL) -> Budget | None:
        """Ask what this process may have and has. None where it can't be told."""
        answer = BudgetAnswer()
        if not self._state(_State.ADAPTER_MEMORY_BUDGET, (ctypes.c_uint32 * 2)(0, segment), answer):
            return None
        return Budget(answer.budget, answer.usage)

    def used_bytes(self, segment: Segment = Segment.LOCAL) -> int | None:
        """Ask what all processes hold. None where it can't be told."""
        answer = UsageAnswer()
        asked = self._state(_State.ADAPTER_MEMORY_USAGE, (ctypes.c_uint32 * 2)(0, segment), answer)
        return answer.committed if asked else None

    def process_used_bytes(self, pid: int, segment: Segment = Segment.LOCAL) -> int | None:
        """Ask what one process holds. None where it can't be told, or it holds nothing known."""
        answer = ProcessUsageAnswer()
        asked = self._state(_State.PROCESS_MEMORY_USAGE, (ctypes.c_uint32 * 3)(0, segment, pid), answer)
        return answer.usage.committed if asked and answer.found else None

    def watch_budget(self, changed: Callable[[], None], library: str = LIBRARY) -> "BudgetWatch":
        """Have ``changed`` called whenever the system grants this process more or less of it. OSError where DXCore can't."""
        return BudgetWatch(self._adapter, changed, library)

    def close(self) -> None:
        """Give it up."""
        self._adapter.close()

    def _property(self, which: _Property, buffer: Any) -> Any:
        size = ctypes.c_size_t(ctypes.sizeof(buffer))
        self._adapter.check(_GET_PROPERTY, which.name, ctypes.c_uint32(which), size, buffer)
        return buffer

    def _bytes(self, which: _Property) -> int:
        return int(self._property(which, (ctypes.c_uint64 * 1)())[0])

    def _text(self, which: _Property) -> str:
        size = (ctypes.c_size_t * 1)()
        self._adapter.check(_GET_PROPERTY_SIZE, which.name, ctypes.c_uint32(which), size)
        text: bytes = self._property(which, ctypes.create_string_buffer(size[0])).value
        return text.decode("utf-8", "replace")

    def _state(self, which: _State, details: Any, answer: Any) -> bool:
        supported = self._adapter.call(_IS_QUERY_STATE_SUPPORTED, ctypes.c_bool, ctypes.c_uint32(which))
        if not supported:
            return False
        sizes = ctypes.c_size_t(ctypes.sizeof(details)), ctypes.c_size_t(ctypes.sizeof(answer))
        with suppress(ComError):
            self._adapter.check(
                _QUERY_STATE, which.name, ctypes.c_uint32(which), sizes[0], details, sizes[1], answer
            )
            return True
        return False


class BudgetWatch:
    """Until it is closed ``changed`` is called, by a thread of the system's that must not be kept waiting."""

    def __init__(self, adapter: ComObject, changed: Callable[[], None], library: str) -> None:
        kind = ctypes.c_uint32(_ADAPTER_BUDGET_CHANGE)
        self._callback = _Notification(lambda *_: changed())  # kept: the system has its address
        with ExitStack() as undo:
            self._factory = make(library, "DXCoreCreateAdapterFactory", IID_FACTORY)
            undo.callback(self._factory.close)
            if not self._factory.call(_IS_NOTIFICATION_TYPE_SUPPORTED, ctypes.c_bool, kind):
                raise OSError("this DXCore tells of no change of the budget")
            cookie, nothing = (ctypes.c_uint32 * 1)(), Pointer()
            registered = (adapter.pointer, kind, self._callback, nothing, cookie)
            self._factory.check(_REGISTER_EVENT_NOTIFICATION, "RegisterEventNotification", *registered)
            self._cookie = ctypes.c_uint32(cookie[0])
            undo.pop_all()

    def close(self) -> None:
        """Have no more calls: one that runs is waited for."""
        with closing(self._factory):
            self._factory.check(_UNREGISTER_EVENT_NOTIFICATION, "UnregisterEventNotification", self._cookie)


def compute_adapters(library: str = LIBRARY, attribute: str = D3D12_CORE_COMPUTE) -> tuple[Adapter, ...]:
    """Return the hardware that Direct3D 12 can compute on, fastest first, as torch_directml lists it.

    Or that which has another attribute. OSError where DXCore is missing or fails.
    """
    found: list[Adapter] = []
    with ExitStack() as undo, closing(make(library, "DXCoreCreateAdapterFactory", IID_FACTORY)) as factory:
        asked = (ctypes.c_uint32(1), Guid.of(attribute), Guid.of(IID_LIST))
        with closing(factory.get(_CREATE_ADAPTER_LIST, "CreateAdapterList", *asked)) as adapters:
            preferences = (ctypes.c_uint32 * 1)(_HIGH_PERFORMANCE)
            adapters.check(_SORT, "Sort", ctypes.c_uint32(1), preferences)
            for index in range(adapters.call(_GET_ADAPTER_COUNT, ctypes.c_uint32)):
                at = (ctypes.c_uint32(index), Guid.of(IID_ADAPTER))
                adapter = Adapter(adapters.get(_GET_ADAPTER, "GetAdapter", *at))
                if adapter.is_hardware:
                    found.append(adapter)
                    undo.callback(adapter.close)
                else:
                    adapter.close()
        undo.pop_all()
    return tuple(found)


def learning_only_names(library: str = LIBRARY) -> tuple[str, ...]:
    """Return the hardware that runs models and no other work, such as an NPU, by name. None is where DXCore can't say."""
    with ExitStack() as open_adapters:
        try:
            others = [open_adapters.enter_context(closing(each)) for each in compute_adapters(library)]
            found = compute_adapters(library, D3D12_GENERIC_ML)
        except OSError:  # an older DXCore knows no such attribute, or lists nothing for it
            return ()
        learning = [open_adapters.enter_context(closing(each)) for each in found]
        known = {str(each.luid) for each in others}
        return tuple(each.name for each in learning if str(each.luid) not in known)
