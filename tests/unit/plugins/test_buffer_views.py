"""Views of buffers: what is seen is lent to no other, whatever keeps it."""

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.machine import MIB
from tests.unit.plugins.lender import Lender, lender, with_gpu
from worker.plugins import _buffers
from worker.plugins._buffer_views import keeps_storages
from worker.plugins._buffers import KEEP_NS

__all__ = ["lender", "with_gpu"]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "memoryview": lambda buffer: buffer.memory[4:12],
    "numpy": lambda buffer: buffer.numpy()[1:],
    "torch": lambda buffer: buffer.torch()[1:],
    "dlpack to numpy": np.from_dlpack,
    "numpy over the buffer": np.asarray,
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


def test_an_element_type_that_is_none_is_refused(lender: Lender) -> None:
    """The error lists those that there are."""
    with pytest.raises(ValueError, match=r"'float'.*float32"), lender.take(3, float):
        pass


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


def test_a_torch_that_can_not_tell_when_the_last_view_is_gone_is_not_trusted(
    with_gpu: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer is on the fallback instead, and nothing is left on the device; the torch here can tell."""
    assert keeps_storages()
    monkeypatch.setattr(_buffers, "keeps_storages", lambda: False)
    with with_gpu.take(4096) as buffer:
        assert buffer.device_id == "cpu"
    assert with_gpu.machine.manager.allocations.all("cuda:0") == ()


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
