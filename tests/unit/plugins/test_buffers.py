"""Buffers that plugins work in: one caller at a time has each, what is seen is lent to no other, and idle ones go first."""

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.results import Limits
from protocol.vocabulary import ClearType, Initialize
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from tests.unit.isolation import isolated
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    DeviceNotFoundError,
    LimitExceededError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.records import AllocationRequest
from worker.plugins import _buffers
from worker.plugins._buffer_views import Buffer, keeps_storages
from worker.plugins._buffers import KEEP_NS, OWNER, Buffers, size_class
from worker.policy.pressure import DEFAULT_LIMITS
from worker.telemetry.system import FixedSystemMemory

GIB = 2**30


class Lender:
    """The buffers of a machine, and what they asked to have done later."""

    def __init__(
        self,
        folder: Path,
        more: Callable[[TorchOnCpu], dict[str, Any]] = lambda _gpu: {},
        *,
        device: bool = True,
    ) -> None:
        system = FixedSystemMemory()
        self.gpu = TorchOnCpu(64 * MIB)
        self.machine = Machine(
            folder,
            *([SimulatedDevice(total_bytes=64 * MIB)] if device else []),
            pool_bytes=0,
            system=system,
            **more(self.gpu),
        )
        system.count(self.machine.backends["cpu"].held_bytes)
        self.later: list[tuple[int, Callable[[], None]]] = []
        self.buffers = Buffers(
            self.machine.core, self.machine.memory.allocations, lambda due, run: self.later.append((due, run))
        )
        self.machine.memory.consumers.add_source(self.buffers.consumers)
        self.take = self.buffers.take

    @property
    def rows(self) -> list[str]:
        """The ledger's rows that are buffers."""
        rows = self.machine.manager.allocations.all("cpu")
        return [each.allocation_id for each in rows if each.request.owner == OWNER]

    def pass_time(self, ns: int) -> None:
        """Let time pass, and what falls due happen."""
        self.machine.clock.wait(ns / 1e9, self.machine.token())
        now_ns = self.machine.clock.now_ns()
        due = [run for due_ns, run in self.later if due_ns <= now_ns]
        self.later = [each for each in self.later if each[0] > now_ns]
        for run in due:
            run()


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    """Return the buffers of a small machine; its accounts agree at the end."""
    made = Lender(tmp_path)
    yield made
    made.machine.check()
    made.machine.close()


@pytest.fixture
def with_gpu(tmp_path: Path) -> Iterator[Lender]:
    """Return the buffers of a machine that has a device of torch's."""
    made = Lender(tmp_path, lambda gpu: {"apart": (backend_on_cpu(gpu, lambda: 0),)})
    made.machine.memory.devices.wait_until_known(made.machine.token())
    yield made
    made.machine.close()


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


VIEWS: dict[str, Callable[[Any], Any]] = {
    "memoryview": lambda buffer: buffer.memory[4:12],
    "numpy": lambda buffer: buffer.numpy()[1:],
    "torch": lambda buffer: buffer.torch()[1:],
    "dlpack to numpy": np.from_dlpack,
    "dlpack to torch": torch.from_dlpack,
    "torch over numpy over memory": lambda buffer: torch.from_numpy(np.asarray(buffer.memory))[3:],
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_that_is_kept_holds_its_memory_for_itself(lender: Lender, name: str) -> None:
    """Writing through a view after the end touches no memory that another caller has; when it goes, the memory is free."""
    with lender.take((MIB,), "uint8") as buffer:
        kept = VIEWS[name](buffer)
    assert lender.buffers.holding("cpu").in_use_bytes == MIB
    with lender.take((MIB,), "uint8") as other:
        other.memory[:] = bytes(MIB)
        kept[0] = 77
        assert not any(other.memory)
    del kept
    assert lender.buffers.holding("cpu").in_use_bytes == 0
    assert lender.buffers.holding("cpu").held_bytes == 2 * MIB


def test_views_are_of_the_shape_and_type_that_were_asked_for(lender: Lender) -> None:
    """All of them are over the same bytes."""
    with lender.take((3, 5), np.float32) as buffer:
        array, tensor = buffer.numpy(), buffer.torch()
        array[:] = 7
        array[2, 4] = 9
        assert (array.shape, array.dtype) == ((3, 5), np.float32)
        assert (tuple(tensor.shape), tensor.dtype) == ((3, 5), torch.float32)
        assert tensor[2, 4] == 9 == buffer.memory.cast("f")[14]
        assert buffer.__dlpack_device__() == (1, 0)
        del array, tensor
    with lender.take((2, 2), torch.bfloat16) as buffer:
        with pytest.raises(TypeError):
            buffer.numpy()
        assert torch.from_dlpack(buffer).dtype is torch.bfloat16


def test_without_torch_and_numpy_there_are_its_bytes(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes need neither library; asking for another's array says which is missing."""
    for name in ("numpy", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with lender.take((4,), "float32") as buffer:
        buffer.memory.cast("f")[3] = 1.5
        assert buffer.memory.cast("f")[3] == 1.5
        with pytest.raises(ImportError, match="numpy"):
            buffer.numpy()
        with pytest.raises(ImportError, match="torch"):
            np.from_dlpack(buffer)


@pytest.mark.parametrize("size", [0, -1, (3, 0), (2.5,), "3", True])
def test_a_size_that_is_none_is_refused(lender: Lender, size: Any) -> None:
    """It is told what a size is, and nothing is made."""
    with pytest.raises(ValueError, match="at least one element"), lender.take(size):
        pass
    assert lender.rows == []


def test_an_element_type_that_is_none_is_refused(lender: Lender) -> None:
    """The error lists those that there are."""
    with pytest.raises(ValueError, match=r"'float'.*float32"), lender.take(3, float):
        pass


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


@pytest.mark.parametrize(
    "view", [lambda buffer: buffer.torch()[1:], lambda buffer: torch.from_dlpack(buffer)[1:].view(-1)]
)
def test_a_tensor_that_is_kept_holds_its_devices_memory_for_itself(
    with_gpu: Lender, view: Callable[[Any], Any]
) -> None:
    """On a GPU as on the CPU: a block is lent again once no tensor has any of it."""
    with with_gpu.take((2, 256), "float32") as buffer:
        assert buffer.device_id == "cuda:0"
        kept = view(buffer)
        with pytest.raises(TypeError, match="torch"):
            _ = buffer.memory
    assert with_gpu.buffers.holding("cuda:0").in_use_bytes == 4096
    with with_gpu.take((2, 256), "float32") as other:
        tensor = other.torch()
        tensor.zero_()
        kept.fill_(1)
        assert not tensor.any()
        del tensor
    del kept
    assert with_gpu.buffers.holding("cuda:0").in_use_bytes == 0
    assert with_gpu.buffers.drop("cuda:0") == 8192
    assert with_gpu.gpu.allocator().reserved_bytes == 0


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


def test_a_torch_that_can_not_tell_when_the_last_view_is_gone_is_not_trusted(
    with_gpu: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer is on the fallback instead, and nothing is left on the device; the torch here can tell."""
    assert keeps_storages()
    monkeypatch.setattr(_buffers, "keeps_storages", lambda: False)
    with with_gpu.take(4096) as buffer:
        assert buffer.device_id == "cpu"
    assert with_gpu.machine.manager.allocations.all("cuda:0") == ()


def limit(lender: Lender, size_bytes: int) -> None:
    """Set the cap of the CPU."""
    before = lender.machine.manager.devices.limits("cpu")
    lender.machine.memory.relief.set_limits(
        "cpu", Limits(size_bytes, before.reserve_bytes, before.thresholds)
    )


def test_idle_ones_of_other_sizes_go_before_it_is_refused(lender: Lender) -> None:
    """What only waits for its next use is in no caller's way, in a cap either."""
    limit(lender, 8 * MIB)
    with lender.take(3 * MIB), lender.take(4 * MIB):
        pass
    assert len(lender.rows) == 2
    with lender.take(8 * MIB):
        assert len(lender.rows) == 1
        with pytest.raises(LimitExceededError), lender.take(MIB):
            pass
    assert lender.buffers.holding("cpu").in_use_bytes == 0


def test_they_are_the_first_to_go(lender: Lender) -> None:
    """A plan asks them before anything that costs, for what is idle alone, and their bytes come back to the system."""
    with lender.take(2 * MIB) as used:
        used.memory[:] = b"x" * 2 * MIB
        with lender.take(4 * MIB) as idle:
            idle.memory[:] = b"x" * 4 * MIB
        (quote,) = [each for each in lender.machine.memory.consumers.quotes("cpu") if each.kind == OWNER]
        assert quote.consumer_id == "pool:buffers:cpu"
        assert (quote.holding.held_bytes, quote.holding.spare_bytes) == (6 * MIB, 4 * MIB)
        assert [(each.bytes, each.cost_ms) for each in quote.offers] == [(4 * MIB, 0.0)]
        (consumer,) = lender.buffers.consumers("cpu")
        assert consumer.release(quote.offers[0], lender.machine.token()) == 4 * MIB
        assert len(lender.rows) == 1
        assert bytes(used.memory[:2]) == b"xx"


def test_an_allocation_that_makes_room_gets_what_is_idle(lender: Lender) -> None:
    """Of a machine with 8 GiB free the buffers keep 6: who needs 4 gets them at price 0, and is told whose they were."""
    with lender.take(6 * GIB):
        pass
    memory = lender.machine.memory.allocations
    request = AllocationRequest("cpu", 4 * GIB, initialize=Initialize.NONE)
    with pytest.raises(OutOfMemoryError):
        memory.allocate(memory.new_id(), request, lender.machine.token())
    made = memory.allocate(memory.new_id(), request, lender.machine.token(), make_room=True)
    (gone,) = made.released
    assert (gone.consumer_id, gone.kind, gone.cost_ms) == ("pool:buffers:cpu", OWNER, 0)
    assert gone.claimed_bytes == 6 * GIB == gone.returned_bytes
    assert lender.rows == []


def test_above_its_limit_nothing_is_kept(lender: Lender) -> None:
    """A limit that fell under pressure holds for what comes back, and ends with the pressure."""
    (consumer,) = _after_one_use(lender)
    consumer.limit_changed(MIB, "pressure")
    with lender.take(2 * MIB):
        pass
    assert lender.buffers.holding("cpu").held_bytes <= MIB
    consumer.limit_changed(None, "calm")
    with lender.take(2 * MIB):
        pass
    assert lender.buffers.holding("cpu").held_bytes >= 2 * MIB


def _after_one_use(lender: Lender) -> list[Any]:
    with lender.take(MIB):
        pass
    return list(lender.buffers.consumers("cpu"))


def test_what_is_idle_for_long_goes_by_itself(lender: Lender) -> None:
    """One that is used again stays; the timer runs only while there is something to give back."""
    with lender.take(MIB):
        pass
    with lender.take(4 * MIB):
        pass
    lender.pass_time(KEEP_NS // 2)
    with lender.take(MIB):
        pass
    lender.pass_time(KEEP_NS // 2)
    assert lender.buffers.holding("cpu").held_bytes == MIB
    lender.pass_time(KEEP_NS)
    assert lender.rows == []
    assert lender.later == []


def test_one_that_a_host_freed_is_lent_no_more(lender: Lender) -> None:
    """Who clears everything keeps what is in use, and by force frees it: what was in view stays addressable."""
    with lender.take(MIB) as buffer:
        buffer.memory[:] = b"x" * MIB
        cleared = lender.machine.memory.relief.clear(
            ("cpu",), ClearType.ALL, None, lender.machine.token(), force=False
        )
        assert [each.id for each in cleared.kept] == lender.rows
        lender.machine.memory.relief.clear(("cpu",), ClearType.ALL, None, lender.machine.token(), force=True)
        assert lender.rows == []
        buffer.memory[0] = 1
    assert lender.buffers.holding("cpu").held_bytes == 0
    with lender.take(MIB):
        assert len(lender.rows) == 1


@given(st.integers(1, 2**44))
def test_no_class_wastes_more_than_an_eighth(size_bytes: int) -> None:
    """A block holds what was asked for, and less than an eighth, or a page, more; its own size is its class."""
    size = size_class(size_bytes)
    assert size_bytes <= size < size_bytes + max(4096, size_bytes / 8 + 1)
    assert size_class(size) == size


SIZES = st.integers(1, 600_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), SIZES),
        st.tuples(st.sampled_from(["give", "keep a view", "drop a view"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["drop", "wait"]), st.just(0)),
    ),
    max_size=40,
)


class Uses:
    """What is taken and what is kept in view, each full of a number of its own."""

    def __init__(self, lender: Lender) -> None:
        self.lender = lender
        self.lent: list[tuple[Any, Any]] = []
        self.views: list[Any] = []
        self.marks = 0

    def do(self, step: str, number: int) -> None:
        if step == "take":
            context = self.lender.take(number)
            array = context.__enter__().numpy()
            self.marks += 1
            array[:] = self.marks % 251
            self.lent.append((context, array))
        elif step in {"give", "keep a view"} and self.lent:
            context, array = self.lent.pop(number % len(self.lent))
            if step == "keep a view":
                self.views.append(array[: max(1, len(array) // 2)])
            del array
            context.__exit__(None, None, None)
        elif step == "drop a view" and self.views:
            self.views.pop(number % len(self.views))
        elif step == "drop":
            self.lender.buffers.drop("cpu")
        elif step == "wait":
            self.lender.pass_time(KEEP_NS)

    def check(self) -> None:
        seen = [array for _, array in self.lent] + self.views
        assert all((each == each[0]).all() for each in seen)
        places = sorted((each.ctypes.data, each.ctypes.data + each.nbytes) for each in seen)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        rows = self.lender.machine.manager.allocations.all("cpu")
        assert sum(each.size_bytes for each in rows) == self.lender.buffers.holding("cpu").held_bytes
        self.lender.machine.check()


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_is_taken_and_kept_in_view_no_two_share_memory(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What one wrote stays until its last view is gone; the ledger has what is lent and kept, and no more."""
    lender = Lender(tmp_path_factory.mktemp("buffers"))
    uses = Uses(lender)
    for step, number in steps:
        uses.do(step, number)
        uses.check()
    while uses.lent or uses.views:
        uses.do("give", 0)
        uses.do("drop a view", 0)
    assert lender.buffers.holding("cpu").in_use_bytes == 0
    lender.machine.close()


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


def test_idle_ones_go_where_a_cap_is_what_lacks(tmp_path: Path) -> None:
    """They are allocations, which the cap counts: an allocation that needs their bytes has them, and says so."""
    lender = Lender(tmp_path)
    with lender.take(8 * MIB, device="cpu"):
        pass
    lender.machine.manager.devices.set_limits("cpu", Limits(10 * MIB, 0, DEFAULT_LIMITS.thresholds))
    request = AllocationRequest("cpu", 4 * MIB)
    allocations = lender.machine.memory.allocations
    with pytest.raises(LimitExceededError):
        allocations.allocate("alloc-90", request, lender.machine.token())
    made = allocations.allocate("alloc-90", request, lender.machine.token(), make_room=True)
    (gone,) = made.released
    assert (gone.consumer_id, gone.claimed_bytes) == ("pool:buffers:cpu", 8 * MIB)
    assert "count towards the cap" in gone.reason
    assert lender.rows == []
    with pytest.raises(LimitExceededError):
        allocations.allocate(
            "alloc-91", AllocationRequest("cpu", 7 * MIB), lender.machine.token(), make_room=True
        )
