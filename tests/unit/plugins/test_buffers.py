"""Buffers that plugins work in: one caller at a time has each, and each is a row of the ledger."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.isolation import isolated
from tests.unit.machine import MIB
from tests.unit.plugins.lender import Lender, lender, with_gpu
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeviceNotFoundError, UnsupportedError
from worker.plugins._buffer_views import Buffer
from worker.plugins._buffers import size_class

__all__ = ["lender", "with_gpu"]


def test_a_buffer_is_lent_again_and_is_one_row_of_the_ledger(lender: Lender) -> None:
    """Two uses, one after the other, are of the same memory, which is counted once, as its owner's."""
    with lender.take(MIB) as first:
        first.memory[:5] = b"hello"
        (row,) = lender.rows
    with lender.take(MIB) as second:
        assert lender.rows == [row]
        assert bytes(second.memory[:5]) == b"hello", "whatever lay there before"
        assert (second.size_bytes, second.shape, second.dtype, second.device_id) == (
            MIB,
            (MIB,),
            "uint8",
            "cpu",
        )


def test_nested_ones_are_different(lender: Lender) -> None:
    """No memory is handed out twice."""
    with lender.take(MIB) as one, lender.take(MIB) as other:
        one.memory[:] = b"1" * MIB
        other.memory[:] = b"2" * MIB
        assert bytes(one.memory[:2]) == b"11"
        assert len(lender.rows) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, CancelledError])
def test_it_comes_back_however_the_block_ends(lender: Lender, error: type[BaseException]) -> None:
    """Whatever is raised inside goes on, and the buffer is there for the next."""
    with pytest.raises(error), lender.take(MIB):
        raise error("x")
    assert lender.buffers.holding("cpu").in_use_bytes == 0
    with lender.take(MIB):
        assert len(lender.rows) == 1


def test_it_comes_back_where_a_frame_is_dropped(lender: Lender) -> None:
    """A generator that is not run to its end gives back what it had, and waits for nothing then."""

    def work() -> Iterator[int]:
        with lender.take(MIB):
            yield 1

    half_way = work()
    next(half_way)
    assert lender.buffers.holding("cpu").in_use_bytes == MIB
    with lender.buffers._lock:  # as where the collector runs amid a change of the pool
        del half_way
        gc.collect()
    assert lender.buffers.holding("cpu").in_use_bytes == 0


def test_a_request_that_was_cancelled_takes_none(lender: Lender) -> None:
    """The token ends it before anything is made."""
    token = lender.machine.token()
    token.cancel()
    with pytest.raises(CancelledError), lender.take(MIB, token=token):
        pass
    assert lender.rows == []


def test_one_that_can_not_be_made_leaves_no_row(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is short on the way: nothing is lent, counted or kept."""

    def short(*_: Any) -> None:
        raise MemoryError

    for name in ("when_unseen", "__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(Buffer, name, short)
            with pytest.raises(MemoryError), lender.take(MIB):
                pass
        assert lender.rows == []
        assert lender.buffers.holding("cpu").held_bytes == 0
        lender.machine.check()


def test_used_after_its_end_it_fails(lender: Lender) -> None:
    """Neither its bytes nor new views are to be had any more."""
    with lender.take(MIB) as buffer:
        memory = buffer.memory
    with pytest.raises(ValueError, match="released memoryview"):
        memory[0] = 1
    for use in (lambda: buffer.memory, buffer.numpy, buffer.torch, buffer.__dlpack__):
        with pytest.raises(ValueError, match="given back"):
            use()


@pytest.mark.parametrize("size", [0, -1, (3, 0), (2.5,), "3", True])
def test_a_size_that_is_none_is_refused(lender: Lender, size: Any) -> None:
    """It is told what a size is, and nothing is made."""
    with pytest.raises(ValueError, match="at least one element"), lender.take(size):
        pass
    assert lender.rows == []


def test_another_device_takes_its_place(lender: Lender) -> None:
    """No such device, or one that can't be addressed from here: the fallback has it, or the error says why not."""
    with lender.take(MIB, device="cuda:0") as buffer:
        assert buffer.device_id == "cpu"
    with pytest.raises(DeviceNotFoundError), lender.take(MIB, device="cuda:0", fallback=None):
        pass
    with lender.take(MIB, device="sim:0") as buffer:
        assert buffer.device_id == "cpu"
    with pytest.raises(UnsupportedError, match="fallback"), lender.take(MIB, device="sim:0", fallback=None):
        pass
    assert lender.machine.manager.allocations.all("sim:0") == ()


def test_work_of_the_last_one_is_waited_for_before_the_next_has_it(with_gpu: Lender) -> None:
    """What an earlier holder left on any stream, which holds no tensor, can't write into the next one's data."""
    stream = with_gpu.gpu.new_stream()
    with with_gpu.take(4096) as buffer:
        address = buffer.torch().data_ptr()
        stream.pending.append(lambda: ctypes.memset(address, 1, 4096))
    with with_gpu.take(4096) as buffer:
        assert buffer.torch().data_ptr() == address
        assert stream.pending == []


def test_a_device_that_was_lost_takes_its_buffers_along(with_gpu: Lender) -> None:
    """The next one is on the fallback, and nothing is counted that is gone."""
    with with_gpu.take(4096):
        pass
    with_gpu.gpu.failure = RuntimeError("CUDA error: device-side assert triggered")
    with with_gpu.take(4096) as buffer:
        assert buffer.device_id == "cpu"
    assert with_gpu.buffers.holding("cuda:0").held_bytes == 0


def test_a_device_in_a_process_of_its_own_is_not_asked(tmp_path: Path) -> None:
    """Its memory can't be addressed from here: the fallback has it at once, and nothing was allocated there."""
    with isolated() as backend:
        lender = Lender(tmp_path, lambda _gpu: {"apart": (backend,)}, device=False)
        lender.machine.memory.devices.wait_until_known(lender.machine.token())
        with lender.take(MIB, device="sim:0") as buffer:
            assert buffer.device_id == "cpu"
        with pytest.raises(UnsupportedError), lender.take(MIB, device="sim:0", fallback=None):
            pass
        assert lender.machine.manager.allocations.all("sim:0") == ()
        lender.machine.close()


@given(st.integers(1, 2**44))
def test_no_class_wastes_more_than_an_eighth(size_bytes: int) -> None:
    """A block holds what was asked for, and less than an eighth, or a page, more; its own size is its class."""
    size = size_class(size_bytes)
    assert size_bytes <= size < size_bytes + max(4096, size_bytes / 8 + 1)
    assert size_class(size) == size


def test_threads_never_have_the_same_memory(lender: Lender) -> None:
    """Eight threads take, write, and find what they wrote, while idle ones are given up beside them."""
    wrong: list[str] = []
    done = threading.Event()

    def work(own: int) -> None:
        for turn in range(60):
            with lender.take(4096 * (1 + turn % 3)) as buffer:
                view = buffer.memory
                view[:] = bytes([own]) * len(view)
                if bytes(view) != bytes([own]) * len(view):
                    wrong.append(f"{own} at {turn}")

    def drop() -> None:
        while not done.is_set():
            lender.buffers.drop("cpu")

    dropping = threading.Thread(target=drop)
    threads = [threading.Thread(target=work, args=(each,)) for each in range(1, 9)]
    for each in (dropping, *threads):
        each.start()
    for each in threads:
        each.join()
    done.set()
    dropping.join()
    assert wrong == []
    assert lender.buffers.holding("cpu").in_use_bytes == 0


def test_a_token_that_nobody_cancels_is_made_where_none_is_given(lender: Lender) -> None:
    """A caller without a request of its own can take one."""
    with lender.take(10, token=CancelToken(lambda: 0)), lender.take(10):
        assert len(lender.rows) == 2
