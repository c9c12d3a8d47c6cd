"""Reading ``--models``: each complaint names the file, the line and the key, and all come at once."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.models import ModelSpec, Placement
from worker.loaders.model_path import confined
from worker.loaders.registry import is_loader, loader_names

if TYPE_CHECKING:
    from protocol.model_config import ModelEntry
    from worker.loaders.marked_yaml import MarkedYaml

_Place = tuple[str | int, ...]
_Problem = tuple[_Place, str]
_SHOWN_CHARACTERS = 80


class ModelConfigError(ValueError):
    """The file can't be used. The message has a line for each problem: ``file:line: key: what is wrong``."""


def read_models(path: Path, model_root: Path) -> tuple[ModelSpec, ...]:
    """Read the models that the operator declared, in the file's order. ModelConfigError if one is wrong."""
    # YAML and pydantic cost start-up time, which a worker without models need not pay.
    from pydantic import ValidationError  # noqa: PLC0415

    from protocol.model_config import ModelsFile  # noqa: PLC0415
    from worker.loaders.marked_yaml import MarkedYaml, YamlError  # noqa: PLC0415

    try:
        document = MarkedYaml(path)
    except YamlError as error:
        where = path if error.line is None else f"{path}:{error.line}"
        raise ModelConfigError(f"{where}: {error}") from error
    try:
        entries = ModelsFile.model_validate(document.value).models
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise _refusal(path, document, [_problem(dict(each)) for each in found]) from None
    problems = [
        *_repeated(entries),
        *_unreachable(entries),
        *_cycles(entries),
        *_unknown_loaders(entries),
        *_outside(entries, model_root),
    ]
    if problems:
        raise _refusal(path, document, problems)
    return tuple(_spec(entry, model_root.resolve()) for entry in entries)


def _refusal(path: Path, document: "MarkedYaml", problems: list[_Problem]) -> ModelConfigError:
    located = sorted((document.line(*place), _key(place), text) for place, text in problems)
    return ModelConfigError("\n".join(f"{path}:{line}: {key}: {text}" for line, key, text in located))


def _key(place: _Place) -> str:
    """Write a place as ``models[0].device``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".") or "the file"


def _problem(error: dict[str, Any]) -> _Problem:
    from protocol.model_config import ModelEntry, ModelsFile  # noqa: PLC0415

    place: _Place = error["loc"]
    match error["type"]:
        case "value_error":
            # The rules between keys begin with the key that they are about.
            key, _, text = str(error["ctx"]["error"]).partition(": ")
            return (*place, key), text
        case "extra_forbidden" | "invalid_key":
            kind = ModelsFile if len(place) == 1 else ModelEntry
            near = difflib.get_close_matches(str(place[-1]), kind.model_fields, n=1, cutoff=0)
            return place, f"is no known key; the nearest is {near[0]!r}"
        case "missing":
            return place, "is missing"
        case "model_type":
            return place, f"must be keys and values, not {_shown(error['input'])}"
        case _:
            text = str(error["msg"])
            return place, f"{text[0].lower()}{text[1:]}, not {_shown(error['input'])}"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _repeated(entries: "list[ModelEntry]") -> Iterator[_Problem]:
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if first.setdefault(entry.id, index) != index:
            yield ("models", index, "id"), f"{entry.id!r} is the id of models[{first[entry.id]}] already"


def _unreachable(entries: "list[ModelEntry]") -> Iterator[_Problem]:
    ids = [entry.id for entry in entries]
    external = {entry.id for entry in entries if entry.external}
    for index, entry in enumerate(entries):
        if entry.fallback in external:
            text = f"{entry.fallback!r} is external: the worker can't load it instead"
            yield ("models", index, "fallback"), text
        elif entry.fallback is not None and entry.fallback not in ids:
            near = difflib.get_close_matches(entry.fallback, ids, n=1, cutoff=0)
            yield ("models", index, "fallback"), f"no model {entry.fallback!r}; the nearest is {near[0]!r}"


def _cycles(entries: "list[ModelEntry]") -> Iterator[_Problem]:
    """Name each ring of fallbacks once, at its first member."""
    after = {entry.id: entry.fallback for entry in entries}
    for index, entry in enumerate(entries):
        way, at = [entry.id], entry.fallback
        while at is not None and at not in way:
            way.append(at)
            at = after.get(at)
        members = [each.id for each in entries if each.id in way]
        if at == entry.id and members[0] == entry.id:
            ring = " -> ".join([*way, entry.id])
            yield ("models", index, "fallback"), f"goes round in a circle: {ring}"


def _unknown_loaders(entries: "list[ModelEntry]") -> Iterator[_Problem]:
    for index, entry in enumerate(entries):
        if entry.loader is not None and not is_loader(entry.loader):
            names = ", ".join(loader_names())
            yield ("models", index, "loader"), f"no loader {entry.loader!r}; there are {names}"


def _outside(entries: "list[ModelEntry]", model_root: Path) -> Iterator[_Problem]:
    for index, entry in enumerate(entries):
        try:
            if entry.path is not None:
                confined(Path(entry.path), model_root)
        except ValueError as error:
            yield ("models", index, "path"), str(error)


def _spec(entry: "ModelEntry", model_root: Path) -> ModelSpec:
    from protocol.model_config import DTYPES  # noqa: PLC0415

    keep_alive = entry.keep_alive_seconds
    return ModelSpec(
        model_id=entry.id,
        loader=entry.loader,
        path=None if entry.path is None else model_root / entry.path,
        model_root=model_root,
        dtype=None if entry.dtype is None else DTYPES[entry.dtype],
        device_id=None if entry.device == "auto" else entry.device,
        keep_alive_ns=None if keep_alive < 0 else round(keep_alive * 1e9),
        pinned=entry.pinned,
        priority=entry.priority,
        declared_bytes=entry.declared_bytes,
        offload=entry.offload,
        fallback=entry.fallback,
        factory=entry.factory,
        placement=Placement(entry.placement),
    )
