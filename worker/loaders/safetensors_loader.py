"""Weights in a safetensors file."""

import mmap
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.core.records import FileRange
from worker.loaders.base import InPlace, WeightFile, lay_out, load_failed, parts_of, reading
from worker.loaders.dtypes import ITEM_BYTES
from worker.loaders.file_kind import check_kind, head_of
from worker.loaders.model_path import open_file
from worker.loaders.positional_file import PositionalFile
from worker.loaders.safetensors_header import (
    LENGTH_BYTES,
    HeaderError,
    StoredTensor,
    header_bytes,
    parse_header,
)
from worker.loaders.sharded_file import open_files
from worker.loaders.tensors import cast_into
from worker.loaders.torch_library import check_imported, check_installed


class SafetensorsLoader:
    """Reads the header, then each tensor straight to its place. torch is imported for a cast only."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the block's size after the cast."""
        file = open_files(spec, _opened)
        file.close()
        return file.total_bytes

    def open(self, spec: ModelSpec) -> WeightFile:
        """Open the files and check each header against its size."""
        return open_files(spec, _ready)


class SafetensorsFile:
    """A WeightFile, and a MappableFile."""

    def __init__(
        self, spec: ModelSpec, file: PositionalFile, data_start: int, stored: tuple[StoredTensor, ...]
    ) -> None:
        self.tensors, self.total_bytes = lay_out(
            ((each.name, each.dtype, each.shape) for each in stored), spec.dtype
        )
        self.parts = parts_of(self.tensors)
        self.passed_over: tuple[str, ...] = ()
        self._spec = spec
        self._file = file
        self._begins = tuple(data_start + each.begin for each in stored)

    @property
    def needs_torch(self) -> bool:
        """Whether reading it needs torch: for a cast."""
        return any(each.dtype != each.stored_dtype for each in self.tensors)

    def read_into(self, index: int, start: int, target: memoryview, token: CancelToken) -> None:
        """Read, through a small scratch buffer if it is cast."""
        info = self.tensors[index]
        if info.dtype == info.stored_dtype:
            self._read(index, start, target)
            return
        first = start // ITEM_BYTES[info.dtype] * ITEM_BYTES[info.stored_dtype]
        cast_into(
            target, info.dtype, info.stored_dtype, lambda at, into: self._read(index, first + at, into), token
        )

    def in_place(self) -> InPlace:
        """Map from the first tensor on: the header stays out."""
        first = min(self._begins, default=self._file.size_bytes)
        start = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        size = self._file.size_bytes - start
        if not size or first == self._file.size_bytes:
            raise load_failed(self._spec, "it has no bytes to be mapped")
        tensors = []
        for info, begin in zip(self.tensors, self._begins, strict=True):
            if info.dtype != info.stored_dtype:
                cause = f"can't be mapped: it is cast from {info.stored_dtype} to {info.dtype}"
                raise load_failed(self._spec, f"tensor {info.name!r} {cause}")
            if begin % ITEM_BYTES.get(info.dtype, 1):
                cause = f"can't be mapped: it begins at byte {begin}, and is of {info.dtype}"
                raise load_failed(self._spec, f"tensor {info.name!r} {cause}")
            tensors.append(replace(info, offset=begin - start))
        return InPlace(self._file.range(start, size), tuple(tensors))

    def stored(self, index: int) -> FileRange | None:
        """Say where a tensor lies that is not cast."""
        info = self.tensors[index]
        if info.dtype != info.stored_dtype:
            return None
        return self._file.range(self._begins[index], info.placed_bytes)

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()

    def _read(self, index: int, start: int, target: memoryview) -> None:
        with reading(self._spec):
            got = self._file.read_into(self._begins[index] + start, target)
        if got < target.nbytes:
            raise self._cut_short(index)

    def _cut_short(self, index: int) -> ModelLoadFailedError:
        return load_failed(
            self._spec,
            f"it was cut short while it was read, in tensor {self.tensors[index].name!r}; load it again",
        )


def _ready(spec: ModelSpec, path: Path) -> SafetensorsFile:
    with ExitStack() as undo:
        opened = _opened(spec, path)
        undo.callback(opened.close)
        if opened.needs_torch:
            check_imported(spec, f"casting it to {spec.dtype}: ")
        undo.pop_all()
    return opened


def _opened(spec: ModelSpec, path: Path) -> SafetensorsFile:
    with ExitStack() as undo, reading(spec):
        file = PositionalFile(*open_file(spec, path))
        undo.callback(file.close)
        opened = _checked(spec, file)
        undo.pop_all()
    return opened


def _checked(spec: ModelSpec, file: PositionalFile) -> SafetensorsFile:
    """Find what loading would fail with, before anything goes for the sake of this model."""
    check_kind("safetensors", head_of(file), file.size_bytes)
    data_start, stored = _read_header(file)
    opened = SafetensorsFile(spec, file, data_start, stored)
    _check_readable(file)
    if opened.needs_torch:
        check_installed(spec, f"casting it to {spec.dtype}: ")
    return opened


def _check_readable(file: PositionalFile) -> None:
    """Read the last byte: what a broken medium or a lost share keeps back is mostly at the end."""
    if file.read_into(file.size_bytes - 1, memoryview(bytearray(1))) < 1:
        raise HeaderError("it was cut short while its header was read", "load it again")


def _read_header(file: PositionalFile) -> tuple[int, tuple[StoredTensor, ...]]:
    prefix = bytearray(LENGTH_BYTES)
    got = file.read_into(0, memoryview(prefix))
    length = header_bytes(bytes(prefix[:got]), file.size_bytes)
    text = bytearray(length)
    if file.read_into(LENGTH_BYTES, memoryview(text)) < length:
        raise HeaderError("it was cut short while its header was read", "load it again")
    start = LENGTH_BYTES + length
    return start, parse_header(bytes(text), file.size_bytes - start)
