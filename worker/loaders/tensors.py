"""Tensors over a block of memory, without a copy. The only thing that is imported late here is torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import ref

from worker.core.cancellation import CancelToken
from worker.core.models import TensorInfo
from worker.loaders.dtypes import ITEM_BYTES, ONLY_TORCH, TORCH_NAMES, bytes_of

if TYPE_CHECKING:
    import torch

_SCRATCH_BYTES = 4 * 2**20
"""What a cast reads at a time: all that a thread takes beside the block."""


def torch_dtype(word: str) -> "torch.dtype":
    """Return torch's own for a word such as ``F16``."""
    import torch  # noqa: PLC0415 - seconds, and only where tensors are made

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[word])
    return dtype


def flat_tensor(memory: memoryview, word: str) -> "torch.Tensor":
    """Return a block's bytes as a tensor of one dimension. It keeps ``memory`` alive, and so its map."""
    import torch  # noqa: PLC0415 - only for models of torch

    dtype = torch_dtype(word)
    return torch.frombuffer(memory, dtype=dtype) if memory.nbytes else torch.empty(0, dtype=dtype)


def cast_into(
    target: memoryview, dtype: str, stored: str, read: Callable[[int, memoryview], object], token: CancelToken
) -> None:
    """Fill ``target`` from what ``read`` reads of another type; it is handed places in bytes of that."""
    stored_item, item = ITEM_BYTES[stored], ITEM_BYTES[dtype]
    scratch = memoryview(bytearray(min(_SCRATCH_BYTES, target.nbytes // item * stored_item)))
    step = _SCRATCH_BYTES // stored_item * item
    for offset in range(0, target.nbytes, step):
        token.check()
        with target[offset : offset + step] as part:
            source = scratch[: part.nbytes // item * stored_item]
            read(offset // item * stored_item, source)
            flat_tensor(part, dtype).copy_(flat_tensor(source, stored))


def as_tensors(block: memoryview, tensors: Iterable[TensorInfo]) -> dict[str, "torch.Tensor"]:
    """Return tensors over a writable block.

    Each keeps a view of the block: while one lives its addresses stay mapped, so a tensor that outlives
    its model reads zeros (AnonymousBuffer.close gives the pages back regardless) and never crashes.
    """
    # A view of our own: torch remembers the object, not its lock on the memory, and no other thread
    # may release this one under it.
    return _over(memoryview(block), tensors)


def _over(own: memoryview, tensors: Iterable[TensorInfo]) -> dict[str, "torch.Tensor"]:
    import torch  # noqa: PLC0415 - only for models of torch

    found: dict[str, torch.Tensor] = {}
    for each in tensors:
        dtype, shape = torch_form(each)
        if each.placed_bytes == 0:
            found[each.name] = torch.empty(shape, dtype=dtype)
            continue
        count = each.placed_bytes // dtype.itemsize
        flat = torch.frombuffer(own, dtype=dtype, count=count, offset=each.offset)
        found[each.name] = shaped(flat, shape, each.strides)
    return found


def shaped(flat: "torch.Tensor", shape: tuple[int, ...], strides: tuple[int, ...] | None) -> "torch.Tensor":
    """Return a tensor of one dimension in its shape, without a copy."""
    return flat.reshape(shape) if strides is None else flat.as_strided(shape, strides)


def dense_bytes(memory: memoryview, info: TensorInfo) -> memoryview:
    """Return a tensor's bytes in the order of its indices: ``memory`` itself, or a copy where they lie otherwise."""
    if info.strides is None:
        return memory
    import torch  # noqa: PLC0415 - only for models of torch

    dtype, shape = torch_form(info)
    copy = memoryview(bytearray(bytes_of(info.dtype, shape)))
    flat = torch.frombuffer(copy, dtype=dtype)
    flat.copy_(shaped(torch.frombuffer(bytearray(memory), dtype=dtype), shape, info.strides).reshape(-1))
    return copy


def torch_form(info: TensorInfo) -> tuple["torch.dtype", tuple[int, ...]]:
    """Return as what torch has a tensor: type and shape.

    What torch has no type for is bytes: two elements of F4 are one of its float4_e2m1fn_x2, where it has that
    and the last dimension is even; else, as F6, a flat row of uint8.
    """
    import torch  # noqa: PLC0415 - only for models of torch

    dtype: torch.dtype | None = getattr(torch, (TORCH_NAMES | ONLY_TORCH).get(info.dtype, ""), None)
    if dtype is not None:
        return dtype, info.shape
    paired = getattr(torch, "float4_e2m1fn_x2", None)
    if info.dtype == "F4" and paired is not None and info.shape and info.shape[-1] % 2 == 0:
        return paired, (*info.shape[:-1], info.shape[-1] // 2)
    return torch.uint8, (info.placed_bytes,)


class Weights(Mapping[str, "torch.Tensor"]):
    """A loaded model's tensors by name, as user code gets them. ``close`` before the block is freed."""

    def __init__(self, block: memoryview, tensors: Iterable[TensorInfo]) -> None:
        own = memoryview(block)
        self._tensors = _over(own, tensors)
        self._memory = ref(own)

    def __getitem__(self, name: str) -> "torch.Tensor":
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> bool:
        """Let go of all tensors. False if user code kept one: the block must then not be used again."""
        self._tensors.clear()
        return self._memory() is None
