"""A block of memory as a plugin sees it while it has it: bytes, and arrays over the same bytes.

Every view of one lending is over one object, the lending's own. It ends with the last of them, which is when the block
can be lent again: so a view that is kept for longer is over memory that no other caller has, and writing to it is safe.
"""

import ctypes
import math
import weakref
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from worker.loaders.dtypes import ITEM_BYTES, TORCH_NAMES

if TYPE_CHECKING:
    import numpy as np
    import torch

_ITEM_BYTES = {name: ITEM_BYTES[word] for word, name in TORCH_NAMES.items() if word in ITEM_BYTES}

Shape = tuple[int, ...]


def form(size: int | Shape, dtype: object) -> tuple[Shape, str]:
    """Return the shape and the element type's name that are asked for. ValueError for what is none."""
    shape = (size,) if isinstance(size, int) else tuple(size)
    name = str(getattr(dtype, "name", None) or getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    if name not in _ITEM_BYTES:
        raise ValueError(f"the element type {name!r} is not known; there is {', '.join(_ITEM_BYTES)}")
    if any(type(each) is not int or each < 1 for each in shape):
        raise ValueError(f"a buffer has at least one element, and whole numbers of them; not {size!r}")
    return shape, name


def bytes_of(shape: Shape, dtype: str) -> int:
    """Return what an array takes, in bytes."""
    return math.prod(shape) * _ITEM_BYTES[dtype]


@cache
def keeps_storages() -> bool:
    """Tell whether torch keeps the Python object of a storage while any tensor has that storage, and no longer."""
    import torch  # noqa: PLC0415 - asked only of a device that is torch's

    first = torch.zeros(2, dtype=torch.uint8)
    watched = weakref.ref(first.untyped_storage())
    view = first[1:].view(torch.int8)
    del first
    kept = watched() is not None
    del view
    return kept and watched() is None


class Buffer:
    """Memory that its caller alone has until the ``with`` block ends: as bytes, and for numpy, torch and DLPack.

    What it holds at first is whatever lay there before. Afterwards it has no views to give, and ``memory`` can't be
    used; an array or tensor that is kept stays valid, and its memory is lent to no other caller until it is gone.
    """

    def __init__(self, source: "memoryview | torch.Tensor", device_id: str, shape: Shape, dtype: str) -> None:
        self.device_id = device_id
        """Where it is: the device that was asked for, or the fallback."""
        self.shape = shape
        self.dtype = dtype
        self.size_bytes = bytes_of(shape, dtype)
        # The lending's own object, which every view of it keeps.
        self._lending: Any
        if isinstance(source, memoryview):
            self._lending = (ctypes.c_ubyte * self.size_bytes).from_buffer(source)
            self._addressed = True
        else:
            import torch  # noqa: PLC0415 - the device is torch's

            self._lending = torch.from_dlpack(source[: self.size_bytes])
            self._addressed = False
        self._memory: memoryview | None = None

    def when_unseen(self, tell: Callable[[], object]) -> None:
        """Call back once it was closed and no view of it is left, on whichever thread lets go of the last one."""
        # torch keeps the object of a storage for as long as any tensor has that storage (keeps_storages).
        kept = self._open() if self._addressed else self._open().untyped_storage()
        weakref.finalize(kept, tell).atexit = False

    @property
    def memory(self) -> memoryview:
        """Its bytes: ``memory.cast("f")`` for others. TypeError for memory that the worker can't address."""
        lending = self._open()
        if not self._addressed:
            message = f"{self.device_id} has its memory apart: torch() and DLPack give views of it"
            raise TypeError(message)
        if self._memory is None:
            self._memory = memoryview(lending).cast("B")
        return self._memory

    def numpy(self) -> "np.ndarray[Any, Any]":
        """Return an array over it. TypeError for a device's memory, and for an element type that numpy has not."""
        import numpy as np  # noqa: PLC0415 - only for who asks

        return np.frombuffer(self.memory, self.dtype).reshape(self.shape)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        """Have ``numpy.asarray(buffer)`` be ``numpy()``: numpy would make it an array of one object."""
        import numpy as np  # noqa: PLC0415 - numpy itself asks

        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def torch(self) -> "torch.Tensor":
        """Return a tensor over it."""
        import torch  # noqa: PLC0415 - only for who asks

        flat = self._open()
        if self._addressed:
            flat = torch.frombuffer(flat, dtype=torch.uint8)
        return flat.view(getattr(torch, self.dtype)).reshape(self.shape)

    def __dlpack__(self, **asked: Any) -> Any:
        return self._array().__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._array().__dlpack_device__()
        return int(kind), int(index)

    def close(self) -> None:
        """Give it back."""
        memory, self._memory, self._lending = self._memory, None, None
        if memory is not None:
            try:
                memory.release()
            except BufferError:  # an array over it keeps it
                return

    def _open(self) -> Any:
        if self._lending is None:
            raise ValueError("the buffer was given back: use it inside its with block")
        return self._lending

    def _array(self) -> Any:
        """Return it as that of both libraries which is there, and knows the element type."""
        self._open()
        if self._addressed:
            try:
                return self.numpy()
            except (ImportError, TypeError):
                pass
        return self.torch()
