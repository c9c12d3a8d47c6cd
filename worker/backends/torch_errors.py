"""What a failed device call, or a dead device process, means: out of memory, the device gone, or something else.

Torch and the drivers raise plain RuntimeErrors, so the words decide where the type does not. On Windows
the words are the system's, in its language: who can look again (is the device still there?) does that
for what is OTHER here.
"""

import errno
import re
from enum import StrEnum

from protocol.vocabulary import DeviceState
from worker.core.errors import DeviceLostError, DeviceUnavailableError, OutOfMemoryError, WorkerError


class Cause(StrEnum):
    """Why it failed."""

    OUT_OF_MEMORY = "out_of_memory"
    DEVICE_LOST = "device_lost"
    UNUSABLE = "unusable"
    """The device is there, and this process can't use it: another has it for itself, or torch has no code for it."""
    OTHER = "other"


_MEMORY_WORDS = re.compile(
    # CPU: Linux and Windows builds of torch, and what C and C++ say
    r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|Cannot allocate memory|std::bad_alloc|bad allocation"
    r"|^MemoryError\b|Unable to allocate .* for an array"
    # CUDA, ROCm, XPU and MPS: torch's allocators, then the runtimes below
    r"|\b(?:CUDA|HIP|XPU|MPS backend) out of memory|(?:CUDA|HIP|driver) error: out of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|(?:cudaErrorMemoryAllocation|hipErrorOutOfMemory)|_STATUS_ALLOC_FAILED"
    r"|UR_RESULT_ERROR_OUT_OF_(?:DEVICE_MEMORY|HOST_MEMORY|RESOURCES)|Invalid buffer size: "
    # DirectML's two allocators, and what Windows calls E_OUTOFMEMORY and its neighbours
    r"|not enough GPU video memory available|DML allocator out of memory"
    r"|Not enough (?:memory resources|storage) (?:are|is) available|paging file is too small"
    r"|Insufficient system resources exist|Ran out of memory"
    # onnxruntime's arenas and CUDA provider; llama.cpp's buffers, on the machine, CUDA and Vulkan
    r"|(?:Failed|unable) to allocate (?:memory\b|(?:[\w.]+ ){0,3}buffers?\b)|CUDA failure 2: out of memory"
    r"|insufficient memory \(attempted to allocate|cudaMalloc failed: out of memory|ErrorOutOf(?:Device|Host)Memory",
    re.IGNORECASE | re.MULTILINE,
)

_LOST_WORDS = re.compile(
    # CUDA errors that leave a process's context unusable, and every block in it with it
    r"(?:CUDA|HIP)(?: driver)? error: (?:an illegal (?:memory access|instruction) was encountered|unspecified launch failure"
    r"|device-side assert|the launch timed out|misaligned address|hardware stack error|invalid program counter"
    r"|uncorrectable (?:ECC|NVLink) error|unknown error|context is destroyed|driver shutting down"
    r"|no (?:CUDA|ROCm)-capable device)"
    r"|GPU is lost|UR_RESULT_ERROR_DEVICE_LOST"
    # DXGI, in the words of Windows and of the headers
    r"|GPU device instance has been suspended|GPU will not respond to more commands"
    r"|DXGI_ERROR_DEVICE_(?:REMOVED|HUNG|RESET)|device removed|device was removed",
    re.IGNORECASE | re.MULTILINE,
)

_UNUSABLE_WORDS = re.compile(
    r"(?:CUDA|HIP)(?: driver)? error: (?:all (?:CUDA|ROCm)-capable devices are busy or unavailable|device or resource busy"
    r"|no kernel image is available for execution on the device|invalid device function)",
    re.IGNORECASE,
)

_OTHER_BUILD = "this torch has no code for it; install a build for its generation"

_NUMBER = re.compile(r"\b0x[0-9a-f]{8}\b|-\d{10}\b", re.IGNORECASE)
"""An HRESULT: as Windows tools print it, or as Linux words one that it does not know (``Unknown error N``)."""

_MEMORY_CODES = frozenset(
    {
        0x8007000E,  # E_OUTOFMEMORY
        0x80070008,  # ERROR_NOT_ENOUGH_MEMORY
        0x800705AA,  # ERROR_NO_SYSTEM_RESOURCES
        0x800705AF,  # ERROR_COMMITMENT_LIMIT
        0x8876017C,  # D3DERR_OUTOFVIDEOMEMORY
        # NTSTATUS, as exit codes
        0xC0000017,  # STATUS_NO_MEMORY
        0xC000012D,  # STATUS_COMMITMENT_LIMIT
        0xC01E0100,  # STATUS_GRAPHICS_NO_VIDEO_MEMORY
    }
)

_LOST_CODES = frozenset(
    {
        0x887A0005,  # DXGI_ERROR_DEVICE_REMOVED
        0x887A0006,  # DXGI_ERROR_DEVICE_HUNG
        0x887A0007,  # DXGI_ERROR_DEVICE_RESET
        0x887A0020,  # DXGI_ERROR_DRIVER_INTERNAL_ERROR
        0x88760870,  # D3DERR_DEVICEREMOVED
        0x88760874,  # D3DERR_DEVICEHUNG
        0xC01E0005,  # STATUS_GRAPHICS_ADAPTER_WAS_RESET, as an exit code
    }
)

_WINDOWS_MEMORY_ERRORS = frozenset({8, 14, 1450, 1455})
"""The last three digits and more of the HRESULTs above, as ``OSError.winerror`` has them."""


def cause_of(error: BaseException) -> Cause:
    """Judge an exception by its type, then by its words."""
    if isinstance(error, DeviceLostError):
        return Cause.DEVICE_LOST
    names = {kind.__name__ for kind in type(error).__mro__}
    # torch's own class goes by its name, so that nothing here imports torch.
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return Cause.OUT_OF_MEMORY
    if isinstance(error, OSError) and (
        error.errno == errno.ENOMEM or getattr(error, "winerror", None) in _WINDOWS_MEMORY_ERRORS
    ):
        return Cause.OUT_OF_MEMORY
    return cause_in_words(str(error))


def cause_of_death(exit_code: int, last_words: str) -> Cause:
    """Judge a process by its exit code (negative: a signal; unsigned or signed NTSTATUS) and its last stderr.

    A kill without words is OTHER: the system's killer of processes leaves no more trace than anyone else.
    """
    if exit_code == 0:
        return Cause.OTHER
    said = cause_in_words(last_words)
    return _cause_of_code(exit_code) if said is Cause.OTHER else said


def cause_in_words(text: str) -> Cause:
    """Judge a message, of whatever source. A device that is gone explains a failed allocation, not vice versa."""
    codes = {_cause_of_code(int(number, 0)) for number in _NUMBER.findall(text)}
    if Cause.DEVICE_LOST in codes or _LOST_WORDS.search(text):
        return Cause.DEVICE_LOST
    if Cause.OUT_OF_MEMORY in codes or _MEMORY_WORDS.search(text):
        return Cause.OUT_OF_MEMORY
    return Cause.UNUSABLE if _UNUSABLE_WORDS.search(text) else Cause.OTHER


def as_worker_error(
    error: BaseException, device_id: str, requested_bytes: int | None = None
) -> WorkerError | None:
    """Return what goes to the caller instead of a library's exception; None for one that is neither cause."""
    if isinstance(error, WorkerError):
        return error
    match cause_of(error):
        case Cause.OUT_OF_MEMORY:
            message = f"{device_id} refused {'' if requested_bytes is None else f'{requested_bytes} bytes'}"
            message = f"{message.rstrip()}: {_first_line(error)}"
            return OutOfMemoryError(message, device_id=device_id, requested_bytes=requested_bytes)
        case Cause.DEVICE_LOST:
            message = f"{device_id} was lost, and what was on it: {_first_line(error)}"
            return DeviceLostError(message, device_id=device_id)
        case Cause.UNUSABLE:
            busy = "busy" in str(error).lower()
            remedy = "another process has it for itself (nvidia-smi -q -d COMPUTE)" if busy else _OTHER_BUILD
            message = f"{device_id} can't be used: {_first_line(error)}: {remedy}"
            return DeviceUnavailableError(message, device_id=device_id, state=DeviceState.UNAVAILABLE)
        case _:
            return None


def _cause_of_code(code: int) -> Cause:
    unsigned = code & 0xFFFFFFFF
    if unsigned in _LOST_CODES:
        return Cause.DEVICE_LOST
    return Cause.OUT_OF_MEMORY if unsigned in _MEMORY_CODES else Cause.OTHER


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n", 1)[0]
