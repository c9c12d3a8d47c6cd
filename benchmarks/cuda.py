"""A GPU's copies against torch's own, and its figures against the driver's. Needs a CUDA device.

The same machine's correctness: ``python -m pytest tests/conformance -k cuda``.
"""

import os
import subprocess
import threading
from collections.abc import Callable
from functools import partial

from benchmarks.cuda_checks import made_apart
from benchmarks.harness import heading, interleaved, row, seconds
from protocol.vocabulary import DeviceState, Initialize, MemoryType
from worker.backends.base import CopiesWhole
from worker.backends.block_copy import copy_block, from_memory, to_memory
from worker.backends.cuda import CudaBackend
from worker.backends.pieces import no_progress
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
    _copies_apart(backend)
    _figures(backend)
    backend.close()


def _copies(backend: CudaBackend) -> None:
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    ordinary = memoryview(bytearray(GIB))
    backend.allocate("device", _ask(GIB), TOKEN)
    backend.allocate("pinned", _ask(GIB, MemoryType.PINNED), TOKEN)
    backend.allocate("beside", _ask(GIB), TOKEN)
    theirs = torch.empty(GIB, dtype=torch.uint8, device=DEVICE)
    beside = torch.empty_like(theirs)
    locked = torch.empty(GIB, dtype=torch.uint8, pin_memory=True)
    paged = torch.frombuffer(ordinary, dtype=torch.uint8)

    def torch_copy(target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    write, read = partial(_write, backend, ordinary), partial(_read, backend, ordinary)
    heading("1 GiB between host and device, GiB/s", "torch's copy_ of the same memory")
    for name, ours, floor in (
        ("ordinary to device", write, partial(torch_copy, theirs, paged)),
        ("device to ordinary", read, partial(torch_copy, paged, theirs)),
        (
            "pinned to device",
            partial(_copy, backend, "pinned", "device"),
            partial(torch_copy, theirs, locked),
        ),
        (
            "device to pinned",
            partial(_copy, backend, "device", "pinned"),
            partial(torch_copy, locked, theirs),
        ),
        (
            "within the device",
            partial(_copy, backend, "device", "beside"),
            partial(torch_copy, beside, theirs),
        ),
    ):
        rate, least = interleaved(ROUNDS, partial(_rate, ours), partial(_rate, floor))
        row(name, rate, least, "GiB/s", ">= 0.9")

    other = memoryview(bytearray(b"\1") * GIB)

    def both_ways() -> float:
        reader = threading.Thread(target=_read, args=(backend, other))

        def both() -> None:
            reader.start()
            _write(backend, ordinary)
            reader.join()

        return 2 / seconds(both)

    rate, least = interleaved(ROUNDS, both_ways, partial(_rate, write))
    row("both ways at once", rate, least, "GiB/s", "> 1.2")
    for name in ("device", "pinned", "beside"):
        backend.free(name)


def _copies_apart(backend: CudaBackend) -> None:
    """The same with the device in a process of its own, which every byte of ordinary memory has to reach first."""
    memory, apart = memoryview(bytearray(b"\1") * GIB), made_apart()
    for each in (backend, apart):
        each.allocate("device", _ask(GIB), TOKEN)
        each.allocate("pinned", _ask(GIB, MemoryType.PINNED), TOKEN)
    heading("1 GiB to and from a device in a process of its own, GiB/s", "the device in this process")
    for name, copy in (
        ("to it", partial(_write, data=memory)),
        ("from it", partial(_read, into=memory)),
        ("pinned to device there", partial(_copy, source="pinned", destination="device")),
    ):
        rates = [partial(_rate, partial(copy, each)) for each in (apart, backend)]
        rate, least = interleaved(ROUNDS, *rates)
        row(name, rate, least, "GiB/s", ">= 0.8")
    apart.close()
    for name in ("device", "pinned"):
        backend.free(name)


def _figures(backend: CudaBackend) -> None:
    import torch  # noqa: PLC0415 - importing torch takes seconds, which who has no CUDA device need not wait for

    heading("Taken and given back by what the backend says, MiB", "what the driver shows")
    backend.trim(DEVICE)
    for size, count in ((4096, 1024), (MIB, 256), (8 * MIB, 64), (64 * MIB, 16), (GIB, 2)):
        free, held = torch.cuda.mem_get_info()[0], _held(backend)
        for number in range(count):
            backend.allocate(f"a{number}", _ask(size), TOKEN)
        taken = free - torch.cuda.mem_get_info()[0]
        row(f"{count} x {size} taken", (_held(backend) - held) / MIB, taken / MIB, "MiB", "1.00")
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


def _rate(work: Callable[[], object]) -> float:
    return 1 / seconds(work)


def _held(backend: CudaBackend) -> int:
    """Return what torch took from the driver, as the backend tells it."""
    readings = backend.readings(DEVICE)
    return readings.resident_bytes + (readings.cached_bytes or 0)


def _ask(size: int, memory_type: MemoryType = MemoryType.DEVICE) -> AllocationRequest:
    return AllocationRequest(DEVICE, size, memory_type, Initialize.NONE)


def _write(backend: CopiesWhole, data: memoryview) -> None:
    backend.write_each("device", GIB, from_memory(data), TOKEN, no_progress)


def _read(backend: CopiesWhole, into: memoryview) -> None:
    backend.read_each("device", GIB, to_memory(into), TOKEN, no_progress)


def _copy(backend: CopiesWhole, source: str, destination: str) -> None:
    copy_block(backend, source, backend, destination, GIB, TOKEN, no_progress)


if __name__ == "__main__":
    main()
