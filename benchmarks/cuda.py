"""A GPU's copies against torch's own, and its figures against the driver's. Needs a CUDA device.

The same machine's correctness: ``python -m pytest tests/conformance -k cuda``.
"""

import os
import subprocess
import threading
from functools import partial

from benchmarks.harness import heading, interleaved, row, seconds
from protocol.vocabulary import DeviceState, Initialize, MemoryType
from worker.backends.base import COPY_CHUNK_BYTES, DeviceBackend
from worker.backends.cuda import CudaBackend
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import AllocationRequest

MIB = 2**20
GIB = 2**30
ROUNDS = 7
DEVICE = "cuda:0"
TOKEN = CancelToken(SystemClock().now_ns)


def main() -> None:
    """Print the ratios, or why there are none."""
    backend = CudaBackend()
    infos = backend.probe()
    if not infos or infos[0].state is not DeviceState.AVAILABLE:
        print("no CUDA device:", infos[0].state_reason if infos else "no driver")
        return
    print(infos[0].name, *backend.notes(), sep="\n- ")
    _copies(backend)
    _figures(backend)
    backend.close()


def _copies(backend: DeviceBackend) -> None:
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    ordinary = memoryview(bytearray(GIB))
    backend.allocate("device", _ask(GIB), TOKEN)
    backend.allocate("pinned", _ask(GIB, MemoryType.PINNED), TOKEN)
    pinned = backend.view("pinned", writable=True)
    assert pinned is not None
    theirs = torch.empty(GIB, dtype=torch.uint8, device=DEVICE)
    locked = torch.empty(GIB, dtype=torch.uint8, pin_memory=True)
    paged = torch.frombuffer(ordinary, dtype=torch.uint8)

    def rate(work: partial[None]) -> float:
        return 1 / seconds(work)

    def torch_copy(target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    heading("1 GiB between host and device, GiB/s", "torch's copy_ of the same memory")
    for name, ours, floor in (
        ("ordinary to device", partial(_write, backend, ordinary), partial(torch_copy, theirs, paged)),
        ("device to ordinary", partial(_read, backend, ordinary), partial(torch_copy, paged, theirs)),
        ("pinned to device", partial(_write, backend, pinned), partial(torch_copy, theirs, locked)),
        ("device to pinned", partial(_read, backend, pinned), partial(torch_copy, locked, theirs)),
    ):
        row(name, *interleaved(ROUNDS, partial(rate, ours), partial(rate, floor)), "GiB/s", ">= 0.9")

    def both_ways() -> float:
        reader = threading.Thread(target=_read, args=(backend, memoryview(bytearray(GIB))))
        started = seconds(lambda: (reader.start(), _write(backend, ordinary), reader.join()))
        return 2 / started

    one = partial(rate, partial(_write, backend, ordinary))
    row("both ways at once", *interleaved(ROUNDS, both_ways, one), "GiB/s", "> 1.2")
    pinned.release()
    backend.free("device")
    backend.free("pinned")


def _figures(backend: DeviceBackend) -> None:
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    heading("Taken and given back by what the backend says, MiB", "what the driver shows")
    for size, count in ((4096, 1024), (MIB, 256), (8 * MIB, 64), (64 * MIB, 16), (GIB, 2)):
        free = torch.cuda.mem_get_info()[0]
        for number in range(count):
            backend.allocate(f"a{number}", _ask(size), TOKEN)
        taken = free - torch.cuda.mem_get_info()[0]
        readings = backend.readings(DEVICE)
        row(
            f"{count} x {size} taken",
            (readings.resident_bytes + readings.cached_bytes) / MIB,
            taken / MIB,
            "MiB",
            "1.00",
        )
        free = torch.cuda.mem_get_info()[0]
        said = sum(backend.free(f"a{number}") or 0 for number in range(count)) + (backend.trim(DEVICE) or 0)
        shown = torch.cuda.mem_get_info()[0] - free
        row(f"{count} x {size} given back", said / MIB, shown / MIB, "MiB", "1.00")
    print(
        "\nthis process, by the backend:",
        backend.readings(DEVICE).process_used_bytes,
        "; by nvidia-smi (MiB):",
    )
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    print(
        subprocess.run(query, capture_output=True, text=True, check=False).stdout or "nothing",
        "pid",
        os.getpid(),
    )


def _ask(size: int, memory_type: MemoryType = MemoryType.DEVICE) -> AllocationRequest:
    return AllocationRequest(DEVICE, size, memory_type, Initialize.NONE)


def _write(backend: DeviceBackend, data: memoryview) -> None:
    for start in range(0, GIB, COPY_CHUNK_BYTES):
        backend.write("device", start, data[start : start + COPY_CHUNK_BYTES], TOKEN)


def _read(backend: DeviceBackend, into: memoryview) -> None:
    for start in range(0, GIB, COPY_CHUNK_BYTES):
        backend.read("device", start, into[start : start + COPY_CHUNK_BYTES], TOKEN)


if __name__ == "__main__":
    main()
