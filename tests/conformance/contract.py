"""What every backend owes the worker. Each file beside this one holds one of them to it."""

import contextlib
import os
import threading
from collections.abc import Callable

import pytest

from protocol.vocabulary import DeviceState, Initialize, MemoryType
from tests.conformance.support import MIB, CancelledAt, all_of, ask, contents, fill_with, freed, rss, taken
from tests.e2e.process import eventually
from worker.backends.base import DeviceBackend
from worker.backends.host_memory import address_of
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import CancelledError, OutOfMemoryError, UnsupportedError


class BackendContract:
    """Subclasses define the fixture ``backend``: a fresh one, of which nothing is left when it is closed."""

    never_shrinks = False
    """Whether what is freed stays with the process as long as that lives, and is told of as cached."""

    @pytest.fixture
    def device_id(self, backend: DeviceBackend) -> str:
        """Return the backend's only device; the first, where a machine has several."""
        return backend.probe()[0].device_id

    @pytest.fixture
    def token(self) -> CancelToken:
        """Return a token that nobody cancels."""
        return CancelToken(SystemClock().now_ns)

    def test_probe(self, backend: DeviceBackend) -> None:
        """A probe finds the same devices, in the same order, every time."""
        assert backend.probe() == backend.probe()
        assert all(info.state is DeviceState.AVAILABLE for info in backend.probe())

    @pytest.mark.parametrize(
        "size", [1, 255, 256, 4095, 4096, 4097, MIB - 1, 2 * MIB, 5 * MIB + 3, 128 * MIB]
    )
    def test_blocks_of_all_sizes(
        self, backend: DeviceBackend, device_id: str, token: CancelToken, size: int
    ) -> None:
        """A block is live from allocate to free, holds at least what was asked for, and reads as zero."""
        before = backend.readings(device_id)
        block = backend.allocate("a", ask(device_id, size), token)
        assert block.actual_bytes >= size
        assert backend.live() == {"a"}
        during = backend.readings(device_id)
        assert during.resident_bytes - before.resident_bytes == block.actual_bytes
        assert contents(backend, "a", size, token) == bytes(size)
        told = freed(backend, device_id, "a")
        assert told is None or told == all_of(block.actual_bytes, never_shrinks=self.never_shrinks)
        assert backend.live() == frozenset()
        backend.trim(device_id)
        after = backend.readings(device_id)
        assert after.resident_bytes == before.resident_bytes
        assert self.never_shrinks or after.cached_bytes == before.cached_bytes

    def test_write_and_read(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """What is written at an offset is read there, and nothing beside it is touched."""
        size, offset = 3 * MIB + 5, 2 * MIB + 1
        data = os.urandom(MIB)
        backend.allocate("a", ask(device_id, size), token)
        backend.allocate("b", ask(device_id, size), token)
        backend.write("a", offset, memoryview(data), token)
        found = contents(backend, "a", size, token)
        assert found[offset : offset + len(data)] == data
        assert found[:offset].count(0) == offset
        assert found[offset + len(data) :].count(0) == size - offset - len(data)
        assert contents(backend, "b", size, token) == bytes(size)
        into = bytearray(10)
        backend.read("a", offset, memoryview(into), token)
        assert into == data[:10]

    def test_view(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """A view, where there is one, is exactly the block's bytes."""
        backend.allocate("a", ask(device_id, 5000), token)
        view = backend.view("a", writable=True)
        if view is None:
            return
        with view:
            assert len(view) == 5000
            view[4999] = 7
        assert contents(backend, "a", 5000, token)[4999] == 7

    def test_zero_is_zero_after_reuse(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """Zero means zero, also in memory that was used before and kept."""
        size = 2 * MIB + 100
        for _ in range(6):
            backend.allocate("a", ask(device_id, size), token)
            assert contents(backend, "a", size, token).count(0) == size
            backend.write("a", 0, memoryview(b"\xff" * size), token)
            backend.free("a")

    def test_none_touches_nothing(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """``none`` takes no memory of this process, whatever was used and kept before."""
        size = 128 * MIB
        for _ in range(3):
            backend.allocate("warm", ask(device_id, size), token)
            backend.free("warm")
        backend.trim(device_id)
        before = rss(backend)
        backend.allocate("a", ask(device_id, size, Initialize.NONE), token)
        assert rss(backend) - before < 4 * MIB
        if device_id == "cpu":
            assert backend.readings(device_id).resident_bytes == 0
            backend.write("a", 0, memoryview(b"x"), token)
            assert backend.readings(device_id).resident_bytes == size

    def test_free_returns_what_was_taken(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """Returned bytes are bytes that the process really had and has no more."""
        size, count = 16 * MIB, 8
        blocks = [backend.allocate(f"a{n}", ask(device_id, size), token) for n in range(count)]
        for n in range(count):
            backend.write(f"a{n}", 0, memoryview(b"\x01" * size), token)
        full, cached = taken(backend, device_id), backend.readings(device_id).cached_bytes
        returned = [backend.free(f"a{n}") or 0 for n in range(count)]
        returned.append(backend.trim(device_id) or 0)
        made = sum(block.actual_bytes for block in blocks)
        if self.never_shrinks:
            assert sum(returned) == 0
            kept = backend.readings(device_id).cached_bytes - cached
            assert kept == all_of(made, never_shrinks=True)
            return
        assert sum(returned) == made + cached
        assert full - taken(backend, device_id) == pytest.approx(sum(returned), rel=0.02)

    def test_freeing_what_is_not_live(self, backend: DeviceBackend) -> None:
        """An unknown id is the caller's bug, and says so."""
        with pytest.raises(KeyError):
            backend.free("nothing")

    def test_more_than_there_is(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """What cannot be had is out of memory, and nothing of it is left behind."""
        before = backend.readings(device_id)
        for size in (2**47, 2**62, 2**63 - 1):
            for initialize in Initialize:
                with pytest.raises(OutOfMemoryError):
                    backend.allocate("a", ask(device_id, size, initialize), token)
                assert backend.live() == frozenset()
        assert backend.readings(device_id).resident_bytes == before.resident_bytes
        backend.allocate("a", ask(device_id, 1), token)

    def test_largest_block_can_be_had(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """The largest block that a device reads as free is one that it gives."""
        backend.allocate("small", ask(device_id, 1000), token)
        largest = backend.readings(device_id).largest_block_bytes
        if largest is not None:
            backend.allocate("a", ask(device_id, largest, Initialize.NONE), token)

    @pytest.mark.parametrize("alignment", [1, 4096, 2**16, 2 * MIB, 32 * MIB])
    def test_alignment(
        self, backend: DeviceBackend, device_id: str, token: CancelToken, alignment: int
    ) -> None:
        """A block begins where it was asked to, where its address can be seen, and gives all of itself back."""
        block = backend.allocate("a", ask(device_id, 3 * MIB, alignment=alignment), token)
        view = backend.view("a", writable=True)
        if view is not None:
            with view:
                assert address_of(view) % alignment == 0
        assert contents(backend, "a", 3 * MIB, token) == bytes(3 * MIB)
        assert freed(backend, device_id, "a") == all_of(block.actual_bytes, never_shrinks=self.never_shrinks)

    def test_pinned(self, backend: DeviceBackend, device_id: str) -> None:
        """A memory type that a device does not have is refused before anything is done."""
        for memory_type in MemoryType:
            request = ask(device_id, 1, memory_type=memory_type)
            with contextlib.suppress(UnsupportedError):
                backend.check(request)
        refused = MemoryType.PINNED if device_id == "cpu" else MemoryType.SHARED
        with pytest.raises(UnsupportedError):
            backend.check(ask(device_id, 1, memory_type=refused))

    @pytest.mark.parametrize("nth", [1, 2])
    def test_cancelled_allocation(self, backend: DeviceBackend, device_id: str, nth: int) -> None:
        """An allocation that is cancelled, at whatever step, leaves nothing behind."""
        before, resident = backend.readings(device_id), rss(backend)
        try:
            backend.allocate("a", ask(device_id, 128 * MIB + 1), CancelledAt(nth))
        except CancelledError:
            assert backend.live() == frozenset()
            eventually(
                lambda: backend.readings(device_id).resident_bytes == before.resident_bytes,
                "what a process made after it was given up is given back",
            )
            assert rss(backend) - resident < 4 * MIB
        else:
            assert (device_id != "cpu", nth) == (True, 2), "only a device that is done at once may be"

    def test_cancelled_copies(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """A cancelled copy says so, and the block can be freed with all its bytes."""
        block = backend.allocate("a", ask(device_id, 8 * MIB), token)
        piece = memoryview(bytearray(8 * MIB))
        for copy in (backend.write, backend.read):
            with pytest.raises(CancelledError):
                copy("a", 0, piece, CancelledAt(1))
        assert freed(backend, device_id, "a") == all_of(block.actual_bytes, never_shrinks=self.never_shrinks)

    def test_caches_are_given_up(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """What is kept for reuse is told of as cached, and gone after a trim."""
        for _ in range(4):
            backend.allocate("a", ask(device_id, 4 * MIB), token)
            backend.free("a")
        cached = backend.readings(device_id).cached_bytes
        assert backend.trim(device_id) in {0 if self.never_shrinks else cached, None}
        assert backend.readings(device_id).cached_bytes == (cached if self.never_shrinks else 0)
        backend.tick()

    def test_defragment_keeps_contents(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """Joining free memory leaves every block as it is, and one free range where that can be done in place."""
        for n in range(10):
            backend.allocate(f"a{n}", ask(device_id, MIB), token)
            backend.write(f"a{n}", 0, memoryview(bytes([n]) * MIB), token)
        for n in range(0, 10, 2):
            backend.free(f"a{n}")
        joined = backend.defragment(device_id)
        pieces = backend.readings(device_id).fragmentation
        assert (joined is None) == (pieces is None or self.never_shrinks)
        if joined is not None and pieces is not None:
            assert joined.moved == 5
            assert pieces.largest_free_block_bytes == pieces.free_bytes
            assert pieces.fragmentation_percentage == 0
        for n in range(1, 10, 2):
            assert contents(backend, f"a{n}", MIB, token) == bytes([n]) * MIB

    def test_readings_agree_with_themselves(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """No figure is negative or larger than what it is a part of."""
        backend.allocate("a", ask(device_id, 10 * MIB), token)
        found = backend.readings(device_id)
        assert found.total_bytes is not None
        assert found.budget_bytes is not None
        assert found.free_bytes is not None
        assert found.used_bytes is not None
        assert 0 <= found.free_bytes <= found.total_bytes
        assert 0 < found.budget_bytes <= found.total_bytes
        assert 0 < found.used_bytes <= found.total_bytes
        if found.process_used_bytes is not None:
            assert 0 <= found.resident_bytes <= found.process_used_bytes
        else:
            assert device_id.startswith("cuda"), "only a GPU's driver may not know"
        assert backend.notes()

    def test_many_threads(self, backend: DeviceBackend, device_id: str, token: CancelToken) -> None:
        """Threads that allocate and free at once find what is theirs, and leave nothing."""
        failures: list[BaseException] = []

        def work(me: int) -> None:
            try:
                for turn in range(25):
                    name, size = f"{me}-{turn}", 4096 * (1 + (turn * 7 + me) % 300)
                    backend.allocate(name, ask(device_id, size), token)
                    backend.write(name, size - 1, memoryview(bytes([me])), token)
                    assert contents(backend, name, size, token) == bytes(size - 1) + bytes([me])
                    backend.readings(device_id)
                    backend.free(name)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                failures.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert backend.live() == frozenset()
        backend.trim(device_id)
        assert backend.readings(device_id).resident_bytes == 0

    def test_weights_are_what_was_filled_in_and_go_at_once(
        self, backend: DeviceBackend, device_id: str, token: CancelToken
    ) -> None:
        """A model's block reads back to the byte, and what unloading it returns is all of it: no pool keeps it."""
        content = os.urandom(3 * MIB + 5)
        before = backend.readings(device_id)
        block = backend.load("weights-1", ask(device_id, len(content)), fill_with(content), token)
        assert backend.live() == {"weights-1"}
        assert backend.readings(device_id).resident_bytes == before.resident_bytes + block.actual_bytes
        read = bytearray(len(content))
        backend.read("weights-1", 0, memoryview(read), token)
        assert read == content
        cached = backend.readings(device_id).cached_bytes
        returned = backend.unload("weights-1") or 0
        kept = backend.readings(device_id).cached_bytes - cached
        # What else was cached may go with it: the rest of a segment is returned with it, what was freed before is not.
        assert block.actual_bytes in (
            all_of(returned + kept, never_shrinks=self.never_shrinks),
            all_of(returned + max(0, kept), never_shrinks=self.never_shrinks),
        )
        after = backend.readings(device_id)
        assert after.resident_bytes == before.resident_bytes
        assert self.never_shrinks or after.cached_bytes == before.cached_bytes

    @pytest.mark.parametrize("failure", [OSError("no"), CancelledError("no"), OutOfMemoryError("no")])
    def test_a_load_that_fails_leaves_nothing(
        self, backend: DeviceBackend, device_id: str, token: CancelToken, failure: Exception
    ) -> None:
        """Whatever the filling ends with goes on to the caller, and the block is gone."""
        before = backend.readings(device_id)

        def fill(view: memoryview | None, write: Callable[[int, memoryview], None]) -> None:
            fill_with(bytes(MIB))(view, write)
            raise failure

        with pytest.raises(type(failure)):
            backend.load("weights-1", ask(device_id, 2 * MIB), fill, token)
        assert backend.live() == frozenset()
        assert backend.readings(device_id).resident_bytes == before.resident_bytes
