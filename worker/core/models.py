"""What the layers say of a model: as the operator declared it, and how its tensors lie."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from protocol.record import Record

DEFAULT_KEEP_ALIVE_NS = 600 * 10**9
FOREVER_NS = -1
"""In the place of a keep-alive: until evicted."""

AUTO_LOADER = "auto"
"""The loader of a model whose file's contents say which it is."""


class Placement(StrEnum):
    """Where the weights of a model in the machine's own memory are. On any other device they are copies."""

    AUTO = "auto"
    """Mapped where the file allows it and the system holds writers off, else copied."""
    MAP = "map"
    """In the file, mapped; what can't be is not loaded."""
    COPY = "copy"
    """In memory of the worker's own."""


class PrefixCache(Record):
    """The store in which an engine keeps what it makes of the beginnings of prompts."""

    store: str
    max_bytes: int
    """Of all scopes together."""
    persist: bool


class ModelSpec(Record):
    """A model as the operator declared it."""

    model_id: str
    loader: str | None = None
    """None for a model that another process holds."""
    path: Path | None = None
    """Below ``model_root``; a link in it is followed at each load, and must not lead out."""
    model_root: Path | None = None
    dtype: str | None = None
    """What floating-point tensors are cast to, as ``F16``; None for as stored."""
    device_id: str | None = None
    """None for whichever device has headroom."""
    keep_alive_ns: int | None = DEFAULT_KEEP_ALIVE_NS
    """How long it stays after its last use; None for until evicted."""
    pinned: bool = False
    priority: int = 0
    declared_bytes: int | None = None
    offload: bool = False
    fallback: str | None = None
    factory: str | None = None
    placement: Placement = Placement.AUTO
    refused: str | None = None
    """What is wrong with its declaration: it is listed, and loading it fails with this."""
    more_paths: tuple[Path, ...] = ()
    """The other shards, where they are declared one by one."""
    aliases: tuple[str, ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    """What the loader is handed beside, by name."""
    preload: bool = False
    engine_group: str | None = None
    """The engine process that it shares; None for one of its own."""
    server: str | None = None
    """The model server that has it, where it is one that this worker follows: then it is external."""

    @property
    def external(self) -> bool:
        """Whether another process holds it."""
        return self.loader is None and self.refused is None


class Role(Record):
    """What stands for a model by what it is for."""

    name: str
    model_id: str
    fallbacks: tuple[str, ...]
    """Used where the model has no headroom, in this order."""
    refused: str | None = None
    """Why it stands for nothing; None for one that can be used."""


class ServerSpec(Record):
    """A server as the operator declared it."""

    name: str
    kind: str
    url: str
    device_id: str | None = None
    """None for the default device."""
    authorization_env: str | None = None
    """The variable whose value goes into the header ``authorization``."""
    reload_ms: float | None = None
    """What having a model again takes, until it was seen."""


class TensorInfo(Record):
    """One tensor: how it is stored, and where it goes in the block."""

    name: str
    shape: tuple[int, ...]
    stored_dtype: str
    stored_bytes: int
    dtype: str
    offset: int
    """From the start of the block."""
    placed_bytes: int
    """From its first element to its last."""
    strides: tuple[int, ...] | None = None
    """In elements, where they do not lie one after the other in the order of their indices; tensors that share
    memory in their file share it here."""
