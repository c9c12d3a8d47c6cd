"""Allocating, giving back and copying, against the bare system calls on the same pages."""

import ctypes
import mmap
import threading
from functools import partial

import psutil

from benchmarks.harness import Peer, heading, interleaved, row, seconds, worker

MIB = 2**20
GIB = 2**30
ROUNDS = 7


def main() -> None:
    """Print the ratios."""
    heading("allocate + free, milliseconds", "mmap, write every page, munmap")
    with worker() as peer:
        for size in (64 * MIB, 256 * MIB, GIB):
            ours, floor = interleaved(ROUNDS, partial(_cycle, peer, size), partial(_raw_cycle, size))
            row(f"{size // MIB} MiB", ours, floor, "ms", "<= 1.1")
    heading("Bytes back at the operating system after free + clear, MiB", "bytes freed")
    with worker() as peer:
        for _ in range(2):
            for size, count in ((4096, 4096), (MIB, 256), (8 * MIB, 64), (64 * MIB, 16), (GIB, 2)):
                back = _returned(peer, size, count)
                row(f"{count} x {size}", back, size * count / MIB, "MiB", "1.00 +- 0.01")
    heading("transfer cpu to cpu of 1 GiB, GiB/s", "memcpy of touched buffers by two threads")
    with worker() as peer:
        source = peer.ask("memory.allocate", size_bytes=GIB)["allocation_id"]
        from_, to = _touched(GIB), _touched(GIB)
        for _ in range(3):
            _transfer(peer, source)
        ours, floor = interleaved(ROUNDS, lambda: _transfer(peer, source), lambda: _memcpy(to, from_))
        row("transfer", ours, floor, "GiB/s", ">= 0.9")


def _cycle(peer: Peer, size: int) -> float:
    def work() -> None:
        allocated = peer.ask("memory.allocate", size_bytes=size)
        peer.ask("memory.deallocate", allocation_id=allocated["allocation_id"])

    return seconds(work) * 1e3


def _raw_cycle(size: int) -> float:
    return seconds(lambda: _touched(size).close()) * 1e3


def _touched(size: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ctypes.memset(_address(buffer), 0, size)
    return buffer


def _returned(peer: Peer, size: int, count: int) -> float:
    process = psutil.Process(peer.pid)
    ids = [peer.ask("memory.allocate", size_bytes=size)["allocation_id"] for _ in range(count)]
    before = process.memory_info().rss
    for allocation_id in ids:
        peer.ask("memory.deallocate", allocation_id=allocation_id)
    peer.ask("memory.clear", clear_type="cache")
    return float(before - process.memory_info().rss) / MIB


def _transfer(peer: Peer, source: str) -> float:
    done = peer.ask("memory.transfer", source_allocation_id=source, destination_device_id="cpu")
    peer.ask("memory.deallocate", allocation_id=done["destination_allocation_id"])
    return float(done["bytes_per_second"]) / GIB


def _memcpy(to: mmap.mmap, from_: mmap.mmap) -> float:
    half = len(to) // 2

    def copy(offset: int) -> None:
        ctypes.memmove(_address(to) + offset, _address(from_) + offset, half)

    def work() -> None:
        helper = threading.Thread(target=copy, args=(half,))
        helper.start()
        copy(0)
        helper.join()

    return len(to) / seconds(work) / GIB


def _address(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


if __name__ == "__main__":
    main()
