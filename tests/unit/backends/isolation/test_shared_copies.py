"""Copies between a device's process and what a host maps, on every system."""

from tests.unit.isolation import (
    MIB,
    SHARED_BYTES,
    ask,
    content_of,
    fill,
    isolated,
    never,
    shared_content,
)
from worker.backends.block_copy import copy_block
from worker.backends.cpu import CpuBackend


def test_copies_both_ways(host: CpuBackend) -> None:
    """Each byte arrives; progress is told of, to the end, in pieces of what needs no slot: the process copies by itself."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", ask(SHARED_BYTES), never())
        told: list[int] = []
        copy_block(host, "shared", backend, "a", SHARED_BYTES, never(), told.append)
        assert content_of(backend, "a", SHARED_BYTES) == shared_content(host)
        other = fill(backend, "b", SHARED_BYTES, 4)
        copy_block(backend, "b", host, "shared", SHARED_BYTES, never(), told.append)
        assert shared_content(host) == other
        assert told == [32 * MIB, SHARED_BYTES] * 2
