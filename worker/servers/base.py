"""What each kind of model server can be asked, and told."""

from collections.abc import Hashable, Iterator
from typing import Any, Protocol, runtime_checkable

from protocol.record import Record
from worker.servers.http import ServerError

MODELS_MAX = 64
"""Models of one server that are looked at: more than fit on any machine."""

_NAME_MAX = 200


class Served(Record):
    """A model that a server has loaded."""

    name: str
    size_bytes: int | None
    """What it takes of the device that the server is declared for, as the server says; None where it does not."""
    busy: bool = False
    """Whether a request is being answered, or it is being loaded."""
    used: Hashable = None
    """Changes with each use, where the server tells of uses."""
    port: int | None = None
    """Where its process listens, if it has one of its own."""


class Step(Record):
    """A way to have memory given back."""

    name: str
    """What is done, for people: it follows the model's name."""
    bytes: int
    model: str | None = None
    """None for what is the server's as a whole."""
    rebuild_ms: float | None = None
    """What it takes to have it again; None where that is a load, to be seen or guessed."""


class Seen(Record):
    """What a server said of itself at one moment."""

    models: tuple[Served, ...]
    busy: bool = False
    """Whether all of it is in use: then nothing is asked of it."""
    shared_bytes: int | None = None
    """What it holds beside single models; None for nothing that it tells of."""

    def model(self, name: str) -> Served | None:
        """Return a model by name; None where it is not loaded."""
        return next((each for each in self.models if each.name == name), None)


class ModelServer(Protocol):
    """One server. All methods but ``steps`` ask it, and raise ServerError. Thread-safe."""

    def look(self) -> Seen:
        """Ask what is loaded, and whether it is in use."""
        ...

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Return what could be given back of what was seen, each by itself; nothing that is busy."""
        ...

    def give_back(self, step: Step) -> None:
        """Tell it to. Returns when it has taken the order, or done it."""
        ...

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Tell whether a step has been taken, by what was seen after it."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...


@runtime_checkable
class TellsIdle(Protocol):
    """A server that has to be asked more before it is told: what looking costs little does not say whether it is in use."""

    def is_idle(self, step: Step) -> bool:
        """Ask whether what a step gives back is idle; what is not told is not known to be. ServerError."""
        ...


@runtime_checkable
class Sleeps(Protocol):
    """A server that does not take by itself what it gave back."""

    @property
    def asleep(self) -> str | None:
        """How to wake it by hand, while it sleeps because of this worker; None where it does not."""
        ...

    def wake(self, free_bytes: int | None) -> bool:
        """Have it take it again, if it may: ``free_bytes`` of the device are. Returns whether it did. ServerError."""
        ...


def tell(server: ModelServer, step: Step) -> bool:
    """Have a step taken, unless what it gives back is in use. Returns whether it was told. ServerError."""
    if isinstance(server, TellsIdle) and not server.is_idle(step):
        return False
    server.give_back(step)
    return True


def gone(step: Step, seen: Seen) -> bool:
    """Tell whether a step's model is not loaded any more."""
    return step.model is None or seen.model(step.model) is None


def unloads(seen: Seen, name: str = "unloaded") -> tuple[Step, ...]:
    """Return a step for each idle model whose size is known."""
    if seen.busy:
        return ()
    return tuple(
        Step(name, each.size_bytes, each.name) for each in seen.models if each.size_bytes and not each.busy
    )


# ---- reading what a server said: any of it may be missing, or of another type ----


def rows(said: Any, *names: str) -> Iterator[dict[str, Any]]:
    """Return the objects of a list below these names, at most MODELS_MAX. ServerError where it is no such list."""
    for name in names:
        said = said.get(name) if isinstance(said, dict) else None
    if not isinstance(said, list):
        where = ".".join(names) or "its answer"
        raise ServerError(f"{where} is no list: it is another kind of server, or another version")
    yield from [each for each in said if isinstance(each, dict)][:MODELS_MAX]


def name_of(row: dict[str, Any], *keys: str) -> str | None:
    """Return the first of these that is a name that can be shown; None for none."""
    found = (row.get(key) for key in keys)
    return next(
        (
            each
            for each in found
            if isinstance(each, str) and 0 < len(each) <= _NAME_MAX and each.isprintable()
        ),
        None,
    )


def bytes_of(value: Any) -> int | None:
    """Return a size; None for what can't be one."""
    return value if type(value) is int and 0 <= value < 2**63 else None
