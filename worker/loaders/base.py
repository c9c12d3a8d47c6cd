"""What every loader can do. A loader reads; where the bytes go is its caller's decision."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from protocol.record import Record
from protocol.vocabulary import INT64_MAX
from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec, TensorInfo
from worker.core.paths import printable, said_of, shown
from worker.core.records import FileRange
from worker.core.shortages import shortage
from worker.loaders.dtypes import CASTABLE, bytes_of

if TYPE_CHECKING:
    from worker.backends.engines.base import EngineLaunch

ALIGNMENT_BYTES = 64
"""Each tensor begins at a multiple of this in its block: a cache line, and the widest vector register."""

_MAX_CAUSE_CHARACTERS = 4096
"""A cause quotes names out of files, whose formats do not bound them."""


class Part(Record):
    """A stretch of the block that is read in one go: a tensor, or what several tensors share."""

    name: str
    """Of the first tensor in it."""
    offset: int
    placed_bytes: int
    dtype: str
    stored_dtype: str


class WeightFile(Protocol):
    """An open file of weights. ``read_into`` may be called from several threads.

    Errors: ModelLoadFailedError for whatever the file's contents are to blame for.
    """

    tensors: tuple[TensorInfo, ...]
    parts: tuple[Part, ...]
    """What is read, each once; the tensors lie in them."""
    total_bytes: int
    """The block that holds all of them, with alignment."""
    passed_over: tuple[str, ...]
    """What is in the file beside tensors, in words; not loaded."""

    def read_into(self, index: int, start: int, target: memoryview, token: CancelToken) -> None:
        """Write a part's placed bytes from ``start`` on into ``target``; both are whole elements."""
        ...

    def close(self) -> None:
        """Give the file up. Idempotent."""
        ...


@runtime_checkable
class StoredFile(WeightFile, Protocol):
    """A WeightFile whose parts lie in a file as they are placed, so that another process can read them by itself."""

    def stored(self, index: int) -> FileRange | None:
        """Say where a part lies; None for one that ``read_into`` makes into something else. The descriptor stays open."""
        ...


class InPlace(Record):
    """What of a file is to be mapped, and how the tensors lie in that."""

    file: FileRange
    tensors: tuple[TensorInfo, ...]


@runtime_checkable
class MappableFile(Protocol):
    """A WeightFile whose tensors may lie in the file as they would in a block."""

    def in_place(self) -> InPlace:
        """Say where. ModelLoadFailedError with the cause why they do not."""
        ...


class Loader(Protocol):
    """What all loaders share; each is a FileLoader, an ObjectLoader or an EngineLoader as well."""

    def estimate(self, spec: ModelSpec) -> int | None:
        """Return the bytes it will take, from the header alone. None where that can't be told."""
        ...


@runtime_checkable
class FileLoader(Loader, Protocol):
    """Weights that a backend places into one block."""

    def open(self, spec: ModelSpec) -> WeightFile:
        """Open and check the file. ModelLoadFailedError with the cause; then nothing stays open."""
        ...


@runtime_checkable
class ObjectLoader(Loader, Protocol):
    """A model that the operator's own code makes; its caller measures what it takes."""

    def build(self, spec: ModelSpec, device_id: str) -> object:
        """Make it. ModelLoadFailedError with the cause."""
        ...


@runtime_checkable
class EngineLoader(Loader, Protocol):
    """A model that a library runs by itself, in an engine's process: see ``worker/backends/engines``."""

    def launch(self, spec: ModelSpec) -> "EngineLaunch":
        """Check the file's header and the model's params, without the library, and return what its process opens.

        ModelLoadFailedError with the cause. Called before headroom is made for it.
        """
        ...

    def device_id(self, spec: ModelSpec) -> str | None:
        """Return the device that the engine puts the model on, by its params; None for the machine's own memory."""
        ...


@runtime_checkable
class CheckedLoader(Protocol):
    """A loader that can tell before it loads anything that it could not, whatever the file's contents are."""

    def check(self, spec: ModelSpec) -> None:
        """Raise ModelLoadFailedError for what loading it would fail with. Called before headroom is made for it."""
        ...


class FormatError(ValueError):
    """A file's contents can't be right. The message says what was found, and what to do."""

    advice = "download it again"

    def __init__(self, found: str, advice: str | None = None) -> None:
        advice = self.advice if advice is None else advice
        super().__init__(f"{found}; {advice}" if advice else found)


@contextmanager
def reading(spec: ModelSpec) -> Iterator[None]:
    """Blame the model's file for what is wrong with its contents, and for what the system has against reading it.

    ModelLoadFailedError; but OSError where the system is short of something, which passes.
    """
    try:
        yield
    except FormatError as error:
        raise load_failed(spec, str(error)) from error
    except OSError as error:
        if shortage(error) is not None:
            raise
        raise load_failed(spec, said_of(error)) from error


@contextmanager
def naming(spec: ModelSpec, name: str | None) -> Iterator[None]:
    """Name the file that is blamed; None where that is the one that is declared."""
    try:
        yield
    except ModelLoadFailedError as error:
        if name is None:
            raise
        raise load_failed(spec, f"{name}: {error.details['cause']}") from error


def reason_of(error: ModelLoadFailedError) -> str:
    """Return why a model can't be loaded, with its path, for whoever knows which model that is."""
    path, cause = error.details["path"], error.details["cause"]
    return str(cause) if path is None else f"{path}: {cause}"


def load_failed(spec: ModelSpec, cause: str) -> ModelLoadFailedError:
    """Make the error that names the model, its file, and the cause."""
    path, cause = None if spec.path is None else shown(spec.path), printable(cause)
    if len(cause) > _MAX_CAUSE_CHARACTERS:
        cause = cause[:_MAX_CAUSE_CHARACTERS] + "..."
    where = "" if path is None else f" from {path}"
    message = f"model {spec.model_id!r} can't be loaded{where}: {cause}"
    return ModelLoadFailedError(message, model_id=spec.model_id, path=path, cause=cause)


def check_countable(spec: ModelSpec, size_bytes: int | None) -> None:
    """See that what a file claims that its model takes can be counted. ModelLoadFailedError."""
    if size_bytes is not None and size_bytes > INT64_MAX:
        raise load_failed(
            spec, f"its file claims {size_bytes} bytes, which can't be counted; download it again"
        )


def lay_out(
    stored: Iterable[tuple[str, str, tuple[int, ...]]], cast_to: str | None
) -> tuple[tuple[TensorInfo, ...], int]:
    """Give each (name, dtype, shape) its place in one block. Returns them and the block's size."""
    infos: list[TensorInfo] = []
    end = 0
    for name, stored_dtype, shape in stored:
        dtype = placed_dtype(stored_dtype, cast_to)
        size = bytes_of(dtype, shape)
        offset = aligned(end) if size else 0
        infos.append(
            TensorInfo(name, shape, stored_dtype, bytes_of(stored_dtype, shape), dtype, offset, size)
        )
        end = offset + size if size else end
    return tuple(infos), end


def aligned(end: int) -> int:
    """Return where what comes after ``end`` begins."""
    return -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def parts_of(tensors: Iterable[TensorInfo]) -> tuple[Part, ...]:
    """Return the parts of a block in which no tensor shares another's bytes."""
    return tuple(
        Part(each.name, each.offset, each.placed_bytes, each.dtype, each.stored_dtype) for each in tensors
    )


def placed_dtype(stored: str, cast_to: str | None) -> str:
    """Return what a tensor is after the cast: only floating-point numbers that stand alone change."""
    return cast_to if cast_to is not None and stored in CASTABLE else stored
