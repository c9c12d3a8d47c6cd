"""Loading 1 GiB of safetensors into a block, against what the same bytes cost without a loader.

A load copies, so that the weights are the worker's to count and to give back. Where the file is in the page
cache, reading it in place costs a quarter of that, and no copy can come near: the row says how far.
"""

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson

from benchmarks.harness import heading, interleaved, row, seconds
from worker.backends.host_memory import AnonymousBuffer, address_of
from worker.cancellation import CancelToken
from worker.loaders.base import ModelSpec
from worker.loaders.placing import place
from worker.loaders.safetensors_loader import SafetensorsLoader

GIB = 2**30
TENSORS = 64
ROUNDS = 9
COLD_ROUNDS = 5


def main() -> None:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        _write(path)
        spec = ModelSpec("model", "safetensors", path, path.parent)
        load, load_cold = (
            partial(_load, spec, touch=True),
            partial(_cold, path, partial(_load, spec, touch=True)),
        )
        file, file_cold = partial(_map_file, path), partial(_cold, path, partial(_map_file, path))
        warm = (partial(_load, spec, touch=False), load, _map_memory, partial(_copy_mapped, path), file)
        for each in warm:
            each()
        placed, touched, memory, copied, mapped = interleaved(ROUNDS, *warm)
        cold, mapped_cold = interleaved(COLD_ROUNDS, load_cold, file_cold)
    heading("load of 1 GiB, each byte written, GiB/s; file in the page cache", "see each row")
    row("against mmap of memory, every byte written", 1 / placed, 1 / memory, "GiB/s", ">= 0.9")
    row("against mmap of memory and of the file, copied", 1 / placed, 1 / copied, "GiB/s", ">= 0.9")
    heading("load of 1 GiB, then each byte read, GiB/s", "mmap of the file, each byte read in place")
    row("file on the disk", 1 / cold, 1 / mapped_cold, "GiB/s", ">= 0.9")
    row("file in the page cache: no copy in the floor", 1 / touched, 1 / mapped, "GiB/s", ">= 0.9")


def _write(path: Path) -> None:
    size = GIB // TENSORS
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
    content = os.urandom(size)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(TENSORS):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be dropped from the cache


def _cold(path: Path, work: Callable[[], float]) -> float:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return work()


def _load(spec: ModelSpec, *, touch: bool) -> float:
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
