"""What stands around the parts below the stream: the machine's and the operator's, or a test's."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from protocol.record import Record
from protocol.results import Limits
from worker.app.devices import Begin
from worker.backends.base import DeviceBackend
from worker.core.models import ModelSpec, PrefixCache, Role, ServerSpec
from worker.core.records import Decision, DeviceInfo
from worker.metrics.totals import GarbageTotals


def no_prefixes(_cache: PrefixCache, _question: Any) -> None:
    """Have no stores."""


class Surroundings(Record):
    """What the worker finds around itself."""

    backends: Callable[[Begin], Iterable[DeviceBackend]]
    """Makes the backends, the host's first; takes what begins one that is only found later."""
    limits: Callable[[DeviceInfo], Limits]
    """Returns what a device is limited to at first."""
    models: Callable[[], Iterable[ModelSpec]]
    """Returns the configured models. Called when something first asks for models."""
    process_bytes: Callable[[], int | None]
    """Returns what this process takes; None where that can't be told."""
    garbage: Callable[[], GarbageTotals | None] = lambda: None
    """Returns what Python's collector did; None where it is not watched."""
    roles: Callable[[], Iterable[Role]] = tuple
    """Returns the names for what models are for. Both are called again when they are to be read again."""
    servers: Callable[[], Iterable[ServerSpec]] = tuple
    """Returns the model servers to follow. Called once, after the models."""
    is_broker: bool = False
    """Whether it is there for these alone: where none is followed it exits with 2, when something first asks for models."""
    prefixes: Callable[[PrefixCache, Any], Any] = no_prefixes
    """Answers what engines ask of stores of prompts' beginnings."""
    default_device: str | None = None
    python_lines: Callable[[], Mapping[str, int]] | None = None
    """Returns the bytes of Python objects by the line that made them."""
    record: Callable[[Decision], None] | None = None
    """Takes decisions about models over; must not wait."""
