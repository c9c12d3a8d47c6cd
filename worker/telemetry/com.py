"""Calling COM objects by slot, in pure ctypes: what DXCore and DXGI are asked through."""

import ctypes
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final

if sys.platform == "win32":
    load_library: Callable[[str], Any] = ctypes.WinDLL
    function_type: Callable[..., Any] = ctypes.WINFUNCTYPE
else:
    load_library = ctypes.CDLL
    function_type = ctypes.CFUNCTYPE

Pointer: Final = ctypes.c_void_p
Result: Final = ctypes.c_int32
_RELEASE_SLOT: Final = 2
"""Slots 0 to 2 of every interface are IUnknown's."""


class Guid(ctypes.Structure):
    """A GUID as it lies in memory."""

    _fields_ = (("bytes", ctypes.c_ubyte * 16),)

    @classmethod
    def of(cls, text: str) -> "Guid":
        """Read it as people write it."""
        return cls.from_buffer_copy(uuid.UUID(text).bytes_le)


class Luid(ctypes.Structure):
    """What names an adapter in every interface until the machine restarts."""

    _fields_ = (("low", ctypes.c_uint32), ("high", ctypes.c_int32))

    def __str__(self) -> str:
        return f"0x{self.high & 0xFFFFFFFF:08X}_0x{self.low:08X}"


class ComError(OSError):
    """A call failed; ``code`` is its HRESULT, unsigned."""

    def __init__(self, what: str, code: int) -> None:
        self.code = code & 0xFFFFFFFF
        super().__init__(f"{what}: HRESULT 0x{self.code:08X}")


class ComObject:
    """A pointer to an interface, released once with ``close``."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    @property
    def pointer(self) -> ctypes.c_void_p:
        """Its address, as other objects take it."""
        return Pointer(self._pointer)

    def call(self, slot: int, result: Any, *arguments: Any) -> Any:
        """Call a method. Arguments are ctypes values; structures and arrays go by address."""
        table = ctypes.cast(ctypes.cast(self._pointer, ctypes.POINTER(Pointer))[0], ctypes.POINTER(Pointer))
        passed = [
            Pointer(ctypes.addressof(argument))
            if isinstance(argument, ctypes.Structure | ctypes.Array)
            else argument
            for argument in arguments
        ]
        method = function_type(result, Pointer, *(type(argument) for argument in passed))(table[slot])
        return method(self._pointer, *passed)

    def check(self, slot: int, what: str, *arguments: Any) -> None:
        """Call a method that answers with an HRESULT. ComError if it is a failure."""
        check(self.call(slot, Result, *arguments), what)

    def get(self, slot: int, what: str, *arguments: Any) -> "ComObject":
        """Call a method whose last argument receives an interface."""
        out = (Pointer * 1)()
        self.check(slot, what, *arguments, out)
        return ComObject(out[0] or 0)

    def close(self) -> None:
        """Release it. Idempotent."""
        if self._pointer:
            self.call(_RELEASE_SLOT, ctypes.c_uint32)
            self._pointer = 0


def make(library: str, function: str, interface: str) -> ComObject:
    """Call an exported factory function. OSError where the library or the function is missing, or fails."""
    try:
        create = getattr(load_library(library), function)
    except AttributeError as error:
        message = f"{library} has no {function}"
        raise OSError(message) from error
    create.restype, create.argtypes = Result, [Pointer, Pointer]
    out = Pointer()
    check(create(ctypes.byref(Guid.of(interface)), ctypes.byref(out)), function)
    return ComObject(out.value or 0)


def check(result: int, what: str) -> None:
    """Raise ComError for a failure."""
    if result < 0:
        raise ComError(what, result)
