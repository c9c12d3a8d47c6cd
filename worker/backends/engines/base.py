"""What an engine is: the half that runs in its process, and what the worker tells it."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from protocol.record import Record
from worker.core.cancellation import CancelToken
from worker.core.models import PrefixCache

if TYPE_CHECKING:
    from pathlib import Path  # 5 ms that an engine's process does not need


class EngineLaunch(Record):
    """What an engine's process is to open, checked by the worker."""

    engine: str
    """``module:class`` of an ``Engine``; made once in each process."""
    path: "Path"
    params: Mapping[str, Any]
    """Plain values, by name, from the operator's file alone."""
    files: "tuple[Path, ...]" = ()
    """All files of the model: what the engine maps of them counts as the model's memory."""
    remedies: Mapping[str, str] | None = None
    """What to do about a module that is not found, by its name."""
    group: str | None = None
    """The name of the process, where models share one; None for one of its own."""
    model_id: str | None = None
    """Whose it is, for the log."""
    prefixes: PrefixCache | None = None
    """Where what it makes of the beginnings of prompts is kept; None for nowhere."""
    estimated_bytes: int | None = None
    """What it will take, from the file's header; None where the loader's ``estimate`` says it."""

    def state(self) -> "FileState":
        """Return what tells whether the model is another by now."""
        return state_of(self.files or (self.path,))


AnswerPrefixes = Callable[[PrefixCache, Any], Any]
"""Answers what an engine asks of a store of prompts' beginnings: ``{"do": "longest"}``, ``"put"`` or ``"forget"``, and what that needs."""

FileState = tuple[tuple[str, int, int, int], ...]
"""Of each file: where it is, its inode, its size, and when it was written to."""


def state_of(paths: "Iterable[Path]") -> FileState:
    """Return what tells whether one of the files has changed; one that is not there has a state, too."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append((str(path), -1, -1, -1))
        else:
            found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


class Session(Protocol):
    """A loaded model, in the engine's process. One thread at a time but for ``session``, which is the library's own."""

    session: object
    """What plugins work with."""

    def shrink(self) -> None:
        """Give back working memory and caches, keeping the model: no work is going on. May take as long as one run."""
        ...

    def close(self) -> None:
        """Give the model up."""
        ...

    def figures(self) -> Mapping[str, int | None]:
        """Return ``kv_bytes`` and ``kv_bytes_per_token`` where the library has such a cache and they are known."""
        ...


@runtime_checkable
class Reopens(Protocol):
    """What a session has besides if it can be opened anew in its place."""

    def reopen(self) -> None:
        """Open the model again, and so give back what shrinking left: for a library that keeps what it once had."""
        ...


class Engine(Protocol):
    """A library, imported when this is made, so that its own memory is not taken for a model's."""

    def check(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what of the params the library as it is installed takes no notice of. EngineError for what it can't do.

        ``open`` checks so, too.
        """
        ...

    def open(self, path: str, params: dict[str, Any], token: CancelToken) -> Session:
        """Load a model. EngineError with the cause in words that stand by themselves; else whatever the library raises."""
        ...


class LibraryError(Exception):
    """An engine's library is installed, and can't be imported: no model of it is to blame."""


class EngineError(Exception):
    """A model can't be opened, for a reason that needs no name of an exception's type to be understood."""
