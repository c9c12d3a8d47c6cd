"""Weights that ``torch.save`` wrote: tensors, and plain values beside them that are passed over.

The file is read by our own reader, which runs nothing of it, and its bytes are read by position: torch is needed
for casts and for tensors with gaps, and to use what was loaded.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from worker.core.cancellation import CancelToken
from worker.core.models import ModelSpec
from worker.core.records import FileRange
from worker.loaders.base import WeightFile, load_failed, reading
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.file_kind import PICKLES, ZIP, check_kind, head_of
from worker.loaders.model_path import open_file
from worker.loaders.pickle_reader import PickleError
from worker.loaders.positional_file import PositionalFile
from worker.loaders.sharded_file import open_files
from worker.loaders.shared_storage import lay_out_views
from worker.loaders.tensors import cast_into, flat_tensor
from worker.loaders.torch_archive import Described, described_archive
from worker.loaders.torch_legacy import described_legacy, is_legacy
from worker.loaders.torch_library import check_imported, check_installed
from worker.loaders.torch_values import StoredView
from worker.loaders.zip_records import ZipError, read_exactly

_SCRATCH_BYTES = 4 * 2**20
"""What a cast, or a tensor with gaps, reads at a time: all that a thread takes beside the block."""


class TorchLoader:
    """Reads what the file says of its tensors; the weights stay in the file until they are copied."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the block's size after the cast, as the file describes its tensors; torch is not imported."""
        file = open_files(spec, _opened)
        file.close()
        return file.total_bytes

    def open(self, spec: ModelSpec) -> WeightFile:
        """Open the files and check all of it that can be checked before its weights are read."""
        self.check(spec)
        return open_files(spec, _ready)

    def check(self, spec: ModelSpec) -> None:
        """See that torch is there."""
        check_installed(spec)


class TorchFile:
    """A WeightFile."""

    def __init__(self, spec: ModelSpec, file: PositionalFile, described: Described) -> None:
        layout = lay_out_views(described.tensors, spec.dtype)
        self.tensors, self.parts, self.total_bytes = layout.tensors, layout.parts, layout.total_bytes
        self.passed_over = tuple(f"{path}: {kind}" for path, kind in described.passed_over)
        self._sources = layout.sources
        self._begins = described.begins
        self._spec = spec
        self._file = file

    @property
    def needs_torch(self) -> bool:
        """Whether reading it needs torch: for a cast, or a tensor with gaps."""
        gathered = any(each.gathered is not None for each in self._sources)
        return gathered or any(each.dtype != each.stored_dtype for each in self.parts)

    def read_into(self, index: int, start: int, target: memoryview, token: CancelToken) -> None:
        """Read, through a small scratch buffer if it is cast or gathered."""
        part, source = self.parts[index], self._sources[index]
        if source.gathered is not None:
            self._gather(index, source.gathered, start, target, token)
            return
        stored_item, item = ITEM_BYTES[part.stored_dtype], ITEM_BYTES[part.dtype]
        begin = self._begins[source.storage] + (source.first + start // item) * stored_item
        if part.dtype == part.stored_dtype:
            self._read(index, begin, target)
            return
        cast_into(
            target, part.dtype, part.stored_dtype, lambda at, into: self._read(index, begin + at, into), token
        )

    def stored(self, index: int) -> FileRange | None:
        """Say where a part lies that is neither cast nor gathered."""
        part, source = self.parts[index], self._sources[index]
        if source.gathered is not None or part.dtype != part.stored_dtype:
            return None
        begin = self._begins[source.storage] + source.first * ITEM_BYTES[part.dtype]
        return self._file.range(begin, part.placed_bytes)

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()

    def _gather(
        self, index: int, view: StoredView, start: int, target: memoryview, token: CancelToken
    ) -> None:
        """Read elements of a view with gaps, a row of its last dimension at a time."""
        part = self.parts[index]
        stored_item = ITEM_BYTES[view.dtype]
        into = flat_tensor(target, part.dtype)
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        done = 0
        first = start // ITEM_BYTES[part.dtype]
        most = _SCRATCH_BYTES // stored_item
        for at, step, count in _rows(view, first, into.numel()):
            per_read = max(1, (most - 1) // max(1, step) + 1)
            for piece in range(0, count, per_read):
                token.check()
                length = min(per_read, count - piece)
                with scratch[: ((length - 1) * step + 1) * stored_item] as raw:
                    self._read(index, self._begins[view.storage] + (at + piece * step) * stored_item, raw)
                    into[done : done + length].copy_(flat_tensor(raw, view.dtype)[:: max(1, step)])
                done += length

    def _read(self, index: int, begin: int, target: memoryview) -> None:
        with reading(self._spec):
            got = self._file.read_into(begin, target)
        if got < target.nbytes:
            name = self.parts[index].name
            raise load_failed(
                self._spec, f"it was cut short while it was read, in tensor {name!r}; load it again"
            )


def _rows(view: StoredView, first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place in the storage, step, length) of each row of the last dimension, from one element on."""
    row, step = (view.shape[-1], view.strides[-1]) if view.shape else (1, 1)
    while count:
        outer, column = divmod(first, row)
        at = view.offset + column * step
        for size, stride in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
            outer, place = divmod(outer, size)
            at += place * stride
        length = min(row - column, count)
        yield at, step, length
        first, count = first + length, count - length


def _ready(spec: ModelSpec, path: Path) -> TorchFile:
    with ExitStack() as undo:
        opened = _opened(spec, path)
        undo.callback(opened.close)
        if opened.needs_torch:
            check_imported(spec)
        undo.pop_all()
    return opened


def _opened(spec: ModelSpec, path: Path) -> TorchFile:
    with ExitStack() as undo, reading(spec):
        file = PositionalFile(*open_file(spec, path))
        undo.callback(file.close)
        opened = TorchFile(spec, file, _described(file))
        if file.size_bytes:  # what a broken medium or a lost share keeps back is mostly at the end
            read_exactly(file, file.size_bytes - 1, 1)
        undo.pop_all()
    return opened


def _described(file: PositionalFile) -> Described:
    head = head_of(file)
    check_kind("torch", head, file.size_bytes)
    if is_legacy(head):
        return described_legacy(file)
    if head.startswith(ZIP):
        return described_archive(file)
    if head.startswith(PICKLES):
        raise PickleError("it is a plain pickle, of which nothing was run, and no file of torch.save")
    raise ZipError("it is not a file that torch.save wrote, in its zip format or the older one")
