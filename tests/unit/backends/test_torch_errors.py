"""Telling out of memory from a lost device, in the words that libraries and systems really use."""

import errno

import pytest
import torch

from worker.backends.torch_errors import Cause, as_worker_error, cause_of, cause_of_death
from worker.core.errors import CancelledError, DeviceLostError, DeviceUnavailableError, OutOfMemoryError

MEMORY, LOST, OTHER = Cause.OUT_OF_MEMORY, Cause.DEVICE_LOST, Cause.OTHER
UNUSABLE = Cause.UNUSABLE


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (
            MEMORY,
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        ),
        (
            MEMORY,
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to",
        ),
        (MEMORY, "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        (MEMORY, "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
        (MEMORY, "HIP out of memory. Tried to allocate 2.00 MiB."),
        (MEMORY, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        (MEMORY, "CUDA driver error: out of memory"),
        (
            MEMORY,
            "MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.0 GB, max allowed: 9 GB)",
        ),
        (
            MEMORY,
            "Could not allocate tensor with 200000000 bytes. There is not enough GPU video memory available!",
        ),
        (MEMORY, "Unknown error -2147024882"),
        (MEMORY, "Not enough memory resources are available to complete this operation."),
        (MEMORY, "CreateCommittedResource: HRESULT 0x8007000E"),
        (MEMORY, "The paging file is too small for this operation to complete."),
        (
            MEMORY,
            "Fail: bfc_arena.cc:360 AllocateRawInternal Failed to allocate memory for requested buffer of size 17",
        ),
        (
            MEMORY,
            "RuntimeException: [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Status Message: std::bad_alloc",
        ),
        (MEMORY, "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);"),
        (MEMORY, "EngineError: insufficient memory (attempted to allocate 2048.00 MB)"),
        (MEMORY, "failed to allocate buffer for kv cache"),
        (MEMORY, "unable to allocate CPU buffer"),
        (MEMORY, "failed to allocate CUDA0 buffer of size 2147483648"),
        (MEMORY, "allocating 1024.00 MiB on device 0: cudaMalloc failed: out of memory"),
        (MEMORY, "vk::Device::allocateMemory: ErrorOutOfDeviceMemory"),
        (OTHER, "failed to allocate a port for the server"),
        (OTHER, "Failed to get allocator for Cpu"),
        (LOST, "Unknown error -2005270523"),
        (LOST, "Unknown error -2005270522"),
        (LOST, "Unknown error -2005270521"),
        (
            LOST,
            "The GPU device instance has been suspended. Use GetDeviceRemovedReason to determine the action.",
        ),
        (LOST, "The GPU will not respond to more commands, most likely because of an invalid command"),
        (LOST, "CUDA error: an illegal memory access was encountered"),
        (LOST, "CUDA error: device-side assert triggered"),
        (LOST, "CUDA error: unspecified launch failure"),
        (LOST, "out of memory: Unknown error -2005270523"),
        (MEMORY, "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
        (
            UNUSABLE,
            "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be",
        ),
        (UNUSABLE, "CUDA error: no kernel image is available for execution on the device"),
        (UNUSABLE, "HIP error: invalid device function"),
        (OTHER, "Unknown error -2147467259"),
        (OTHER, "expected 2147024882 elements, found 0"),
        (OTHER, "CUDA error: invalid device ordinal"),
        (OTHER, ""),
    ],
)
def test_words(cause: Cause, text: str) -> None:
    """The words of every library and system that is known, and nothing like them."""
    assert cause_of(RuntimeError(text)) is cause


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (MEMORY, MemoryError()),
        (MEMORY, torch.OutOfMemoryError("whatever it says")),
        (MEMORY, OSError(errno.ENOMEM, "kein Speicher")),
        (OTHER, OSError(errno.ENOSPC, "disk full")),
        (OTHER, ValueError("no")),
    ],
)
def test_types(cause: Cause, error: Exception) -> None:
    """A type that tells is believed whatever the words."""
    assert cause_of(error) is cause


def test_a_device_that_cannot_be_used() -> None:
    """It is there, and nothing on it is lost: the remedy is said, and nothing is freed for it."""
    busy = as_worker_error(
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "cuda:0"
    )
    assert type(busy) is DeviceUnavailableError
    assert "another process has it for itself" in busy.message
    old = as_worker_error(
        RuntimeError("CUDA error: no kernel image is available for execution on the device"), "cuda:0"
    )
    assert old is not None
    assert "install a build for its generation" in old.message


def test_what_torch_says_here() -> None:
    """The real message of this machine's torch is one of those that are known."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert cause_of(caught.value) is MEMORY


@pytest.mark.parametrize(
    ("cause", "exit_code", "words"),
    [
        (MEMORY, -11, "DML allocator out of memory!"),
        (MEMORY, 3221225477, "noise before\nDML allocator out of memory!\n"),
        (MEMORY, -6, "terminate called after throwing an instance of 'std::bad_alloc'"),
        (MEMORY, 1, "Traceback (most recent call last):\nMemoryError"),
        (MEMORY, 0xC0000017, ""),
        (MEMORY, 0xC0000017 - 2**32, ""),
        (LOST, -6, "  what():  Unknown error -2005270523"),
        (OTHER, -9, ""),
        (OTHER, -11, ""),
        (OTHER, 3221225477, ""),
        (OTHER, 0, "DML allocator out of memory!"),
    ],
)
def test_deaths(cause: Cause, exit_code: int, words: str) -> None:
    """A death is judged by its last words, then by its code; a kill that says nothing proves nothing."""
    assert cause_of_death(exit_code, words) is cause


def test_worker_errors() -> None:
    """What goes to the caller names the device, the bytes and the library's first line; our own errors pass."""
    refused = as_worker_error(RuntimeError("Unknown error -2147024882\nframe 1"), "dml:0", 7)
    assert isinstance(refused, OutOfMemoryError)
    assert refused.message == "dml:0 refused 7 bytes: Unknown error -2147024882"
    assert refused.details == {"device_id": "dml:0", "requested_bytes": 7}
    lost = as_worker_error(RuntimeError("Unknown error -2005270523"), "dml:1")
    assert isinstance(lost, DeviceLostError)
    assert lost.details == {"device_id": "dml:1"}
    assert as_worker_error(RuntimeError("anything"), "dml:0") is None
    cancelled = CancelledError("no")
    assert as_worker_error(cancelled, "dml:0") is cancelled
