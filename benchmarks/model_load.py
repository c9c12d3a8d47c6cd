"""Loading 1 GiB of safetensors, every byte touched, against what the same bytes cost without a loader.

Weights stay in their file (``map``) or are copied into memory of the worker's own (``copy``). Each is held against
the same done by hand: a copy cannot come near to reading in place a file that is in the page cache already.
"""

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson

from benchmarks.harness import heading, interleaved, row, seconds
from worker.backends.cpu import CpuBackend
from worker.backends.host_memory import AnonymousBuffer, address_of
from worker.core.cancellation import CancelToken
from worker.core.models import ModelSpec
from worker.loaders.mapping import map_weights
from worker.loaders.placing import place
from worker.loaders.safetensors_loader import SafetensorsLoader
from worker.telemetry.system import SystemMemory

GIB = 2**30
TENSORS = 64
ROUNDS = 9
COLD_ROUNDS = 7


def main() -> None:
    """Print the ratios."""
    with model_of(GIB) as (path, spec):
        backend = CpuBackend(SystemMemory().read, time.monotonic_ns, 0, path.parent)
        load_mapped, load_copy = partial(_load_mapped, spec, backend), partial(_load_copy, spec, touch=True)
        map_file, map_memory = partial(_map_file, path), _map_memory
        place_copy, copy_mapped = partial(_load_copy, spec, touch=False), partial(_copy_mapped, path)
        warm = (load_mapped, map_file, place_copy, map_memory, copy_mapped, load_copy)
        for each in warm:
            each()
        mapped, in_place, placed, memory, copied, touched = interleaved(ROUNDS, *warm)
        from_disk = (partial(cold, path, each) for each in (load_mapped, map_file, load_copy))
        mapped_cold, in_place_cold, touched_cold = interleaved(COLD_ROUNDS, *from_disk)
    heading("load of 1 GiB, `map`, then each byte read, GiB/s", "mmap of the file, each byte read in place")
    row("file in the page cache", 1 / mapped, 1 / in_place, "GiB/s", ">= 0.9")
    row("file on the disk", 1 / mapped_cold, 1 / in_place_cold, "GiB/s", ">= 0.9")
    heading("load of 1 GiB, `copy`, GiB/s", "see each row")
    row("against mmap of memory, every byte written", 1 / placed, 1 / memory, "GiB/s", ">= 0.9")
    row("against mmap of memory and of the file, copied", 1 / placed, 1 / copied, "GiB/s", ">= 0.9")
    row("then read, against the file in place, cached", 1 / touched, 1 / in_place, "GiB/s", "none: a copy")
    row(
        "then read, against the file in place, on disk",
        1 / touched_cold,
        1 / in_place_cold,
        "GiB/s",
        "none: a copy",
    )


@contextmanager
def model_of(size_bytes: int) -> Iterator[tuple[Path, ModelSpec]]:
    """Have a model of so many bytes in tensors on the disk: its file, and what names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_model(path, size_bytes)
        yield path, ModelSpec("model", "safetensors", path, path.parent)


def cold(path: Path, work: Callable[[], float]) -> float:
    """Do it once the file has been dropped from the page cache: it is all clean."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return work()


def write_model(path: Path, size_bytes: int) -> None:
    size = size_bytes // TENSORS
    header = orjson.dumps(
        {
            f"layer{index}": {
                "dtype": "F32",
                "shape": [size // 4],
                "data_offsets": [index * size, (index + 1) * size],
            }
            for index in range(TENSORS)
        }
    )
    header += b" " * (-len(header) % 8)  # as the format's own writer does: tensors lie where they can be used
    content = os.urandom(size)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(TENSORS):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be dropped from the cache


def _load_mapped(spec: ModelSpec, backend: CpuBackend) -> float:
    def work() -> None:
        file = SafetensorsLoader().open(spec)
        token = CancelToken(time.monotonic_ns)
        if map_weights(spec, file, backend, "model", token, lambda _completed: None) is None:
            raise RuntimeError("the system holds nobody off from writing to the file: it would be copied")
        file.close()
        view = backend.view("model", writable=False)
        if view is None:
            raise AssertionError(spec)
        with view:
            _touch(address_of(view), len(view))

    taken = seconds(work)
    backend.unload("model")
    return taken


def _load_copy(spec: ModelSpec, *, touch: bool) -> float:
    def work() -> AnonymousBuffer:
        file = SafetensorsLoader().open(spec)
        block = AnonymousBuffer(file.total_bytes)
        with block.view as view:
            place(file, view, CancelToken(time.monotonic_ns))
        file.close()
        if touch:
            _touch(block.address, file.total_bytes)
        return block

    blocks: list[AnonymousBuffer] = []
    taken = seconds(lambda: blocks.append(work()))
    blocks.pop().close()
    return taken


def _map_memory() -> float:
    buffers: list[AnonymousBuffer] = []

    def work() -> None:
        buffers.append(AnonymousBuffer(GIB))
        ctypes.memset(buffers[0].address, 1, GIB)

    taken = seconds(work)
    buffers.pop().close()
    return taken


def _copy_mapped(path: Path) -> float:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        buffers: list[AnonymousBuffer] = []

        def work() -> None:
            buffers.append(AnonymousBuffer(GIB))
            ctypes.memmove(buffers[0].address, address_of(mapped) + len(mapped) - GIB, GIB)

        taken = seconds(work)
        buffers.pop().close()
        return taken


def _map_file(path: Path) -> float:
    with path.open("rb") as file:
        maps: list[mmap.mmap] = []

        def work() -> None:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            _touch(address_of(maps[0]), len(maps[0]))

        taken = seconds(work)
        maps.pop().close()
        return taken


def _touch(address: int, length: int) -> None:
    """Read every byte as fast as the memory gives it: compare it with itself."""
    ctypes.CDLL(None).memcmp(ctypes.c_void_p(address), ctypes.c_void_p(address), ctypes.c_size_t(length))


if __name__ == "__main__":
    main()
