"""Tensors over a block of memory, without a copy. The only thing that is imported late here is torch."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import ref

from worker.core.models import TensorInfo
from worker.loaders.dtypes import TORCH_NAMES

if TYPE_CHECKING:
    import torch


def torch_dtype(word: str) -> "torch.dtype":
    """Return torch's own for a word such as ``F16``."""
    import torch  # noqa: PLC0415 - seconds, and only where tensors are made

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[word])
    return dtype


def flat_tensor(memory: memoryview, word: str) -> "torch.Tensor":
    """Return a block's bytes as a tensor of one dimension. It keeps ``memory`` alive, and so its map."""
    import torch  # noqa: PLC0415

    dtype = torch_dtype(word)
    return torch.frombuffer(memory, dtype=dtype) if memory.nbytes else torch.empty(0, dtype=dtype)


def as_tensors(block: memoryview, tensors: Iterable[TensorInfo]) -> dict[str, "torch.Tensor"]:
    """Return tensors over a writable block.

    Each keeps a view of the block: while one lives its addresses stay mapped, so a tensor that outlives
    its model reads zeros (AnonymousBuffer.close gives the pages back regardless) and never crashes.
    """
    # A view of our own: torch remembers the object, not its lock on the memory, and nobody else
    # may release this one under it.
    return _over(memoryview(block), tensors)


def _over(own: memoryview, tensors: Iterable[TensorInfo]) -> dict[str, "torch.Tensor"]:
    import torch  # noqa: PLC0415

    found: dict[str, torch.Tensor] = {}
    for each in tensors:
        dtype = torch_dtype(each.dtype)
        if each.placed_bytes == 0:
            found[each.name] = torch.empty(each.shape, dtype=dtype)
            continue
        count = each.placed_bytes // dtype.itemsize
        flat = torch.frombuffer(own, dtype=dtype, count=count, offset=each.offset)
        found[each.name] = flat.reshape(each.shape)
    return found


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
