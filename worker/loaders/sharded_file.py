"""One model in several files: their tensors in one block, one after the other."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from worker.core.cancellation import CancelToken
from worker.core.models import ModelSpec
from worker.core.records import FileRange
from worker.loaders.base import StoredFile, WeightFile, aligned, load_failed, naming
from worker.loaders.model_path import model_files
from worker.loaders.params import Params

OpenOne = Callable[[ModelSpec, Path], WeightFile]
"""Opens and checks one file, that lies here."""


def open_files(spec: ModelSpec, open_one: OpenOne) -> WeightFile:
    """Open all files of a model, which has no params. ModelLoadFailedError with the cause; then nothing stays open."""
    Params(spec, str(spec.loader)).check()
    files = model_files(spec)
    names = files.names(spec)
    if len(files.real) == 1:
        with naming(spec, names[0]):
            return open_one(spec, files.real[0])
    with ExitStack() as opened:
        shards: list[WeightFile] = []
        for path, name in zip(files.real, names, strict=True):
            with naming(spec, name):
                shards.append(open_one(spec, path))
            opened.callback(shards[-1].close)
        whole = ShardedFile(spec, tuple(shards), tuple(path.name for path in files.real), files.index)
        opened.pop_all()
    return whole


class ShardedFile:
    """A WeightFile."""

    def __init__(
        self,
        spec: ModelSpec,
        shards: tuple[WeightFile, ...],
        names: tuple[str, ...],
        index: Mapping[str, str] | None,
    ) -> None:
        _check_names(spec, shards, names, index)
        sizes = [aligned(each.total_bytes) for each in shards]
        begins = [0, *accumulate(sizes)]
        self._firsts = [0, *accumulate(len(each.parts) for each in shards)]
        self._shards = shards
        self.total_bytes = begins[-2] + shards[-1].total_bytes
        self.tensors = tuple(
            replace(each, offset=begin + each.offset)
            for begin, shard in zip(begins, shards, strict=False)
            for each in shard.tensors
        )
        self.parts = tuple(
            replace(each, offset=begin + each.offset)
            for begin, shard in zip(begins, shards, strict=False)
            for each in shard.parts
        )
        self.passed_over = tuple(each for shard in shards for each in shard.passed_over)

    def read_into(self, index: int, start: int, target: memoryview, token: CancelToken) -> None:
        """Have the shard that has the part read it."""
        shard, within = self._shard(index)
        shard.read_into(within, start, target, token)

    def stored(self, index: int) -> FileRange | None:
        """Have the shard that has the part say where it lies."""
        shard, within = self._shard(index)
        return shard.stored(within) if isinstance(shard, StoredFile) else None

    def close(self) -> None:
        """Close all of them."""
        for each in self._shards:
            each.close()

    def _shard(self, index: int) -> tuple[WeightFile, int]:
        """Return which shard has a part, and which of its parts that is."""
        number = bisect_right(self._firsts, index) - 1
        return self._shards[number], index - self._firsts[number]


def _check_names(
    spec: ModelSpec, shards: tuple[WeightFile, ...], names: tuple[str, ...], index: Mapping[str, str] | None
) -> None:
    """See that no tensor is in two of them, and that each is where the index says."""
    where: dict[str, str] = {}
    for shard, name in zip(shards, names, strict=True):
        for each in shard.tensors:
            if each.name in where:
                raise load_failed(
                    spec, f"tensor {each.name!r} is in {where[each.name]} and in {name}: declare one of them"
                )
            where[each.name] = name
    for tensor in index or ():
        if tensor not in where:
            raise load_failed(
                spec, f"its index names tensor {tensor!r}, which is in none of its files: download it again"
            )
