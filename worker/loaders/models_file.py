"""Reading ``--models``: each complaint names the file, the line and the key, and all come at once.

What is wrong with one model refuses that model alone: it is listed with the reason. Only a file that is no such file
at all is an error. Where models' files really lie is looked at when they are opened, not here: a share may hang.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from worker.core.models import AUTO_LOADER, ModelSpec, Placement, Role, ServerSpec
from worker.loaders.complaints import (
    MAX_ID_CHARACTERS,
    MAX_PROBLEMS,
    Nearest,
    Place,
    Problem,
    entry_of,
    key_of,
    located,
    problem_of,
    shown_value,
)
from worker.loaders.model_path import confined
from worker.loaders.registry import is_loader, loader_names
from worker.loaders.servers_file import declared_servers

if TYPE_CHECKING:
    from protocol.model_config import ModelEntry
    from worker.loaders.marked_yaml import MarkedYaml


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class ModelConfigError(ValueError):
    """The file can't be used. The message has a line for each problem: ``file:line: key: what is wrong``."""


class DeclaredModels(Record):
    """What a file declares."""

    specs: tuple[ModelSpec, ...]
    """In the file's order, with those that are refused."""
    roles: tuple[Role, ...]
    """With those that are refused."""
    problems: tuple[str, ...]
    """What is wrong, by line; the first hundred."""
    servers: tuple[ServerSpec, ...] = ()
    """Other model servers; one that is wrong is left out."""


class _Declared(Record):
    """A model as the file has it."""

    place: Place
    model_id: str
    entry: "ModelEntry | None"
    """None for what is no such entry."""


def read_models(path: Path, model_root: Path) -> tuple[ModelSpec, ...]:
    """Read the models that the operator declared, in the file's order. ModelConfigError if anything is wrong."""
    found = declared_models(path, model_root, look=True)
    if found.problems:
        raise ModelConfigError("\n".join(found.problems))
    return found.specs


def declared_models(path: Path, model_root: Path, *, look: bool = False) -> DeclaredModels:
    """Read what the operator declared. ModelConfigError for what is no file of models.

    ``look``: follow the models' paths, too, which takes as long as their storage does.
    """
    # YAML and pydantic cost start-up time, which a worker without models need not pay.
    from pydantic import ValidationError  # noqa: PLC0415 - only where there is a file of models

    from protocol.model_config import ModelsFile  # noqa: PLC0415 - only where there is a file of models
    from worker.loaders.marked_yaml import MarkedYaml, YamlError  # noqa: PLC0415 - only where there is a file of models

    try:
        document = MarkedYaml(path)
    except YamlError as error:
        where = path if error.line is None else f"{path}:{error.line}"
        raise ModelConfigError(f"{where}: {error}") from error
    nearest = Nearest()
    try:
        whole = ModelsFile.model_validate(document.value)
        rows = [] if whole.models is None and whole.servers is not None else _rows(whole.models)
    except ValidationError as error:
        problems = [
            problem_of(ModelsFile, (), dict(each), nearest, document)
            for each in error.errors(include_url=False)
        ]
        raise ModelConfigError("\n".join(located(path, document, problems))) from None
    except _NotModelsError as error:
        raise ModelConfigError("\n".join(located(path, document, [(("models",), str(error))]))) from None
    declared, problems = _entries(rows, document, nearest)
    problems += [
        *_repeated(declared), *_unreachable(declared, nearest), *_cycles(declared), *_unknown_loaders(declared), *_unset(declared, model_root),
        *(_outside(declared, model_root) if look else ()),
    ]  # fmt: skip
    reasons = _reasons(declared, problems)
    # Not resolved, unless they are looked at: following links takes as long as their storage does.
    root = model_root.resolve() if look else Path(os.path.abspath(model_root))  # noqa: PTH100 - links stay as they are
    specs = tuple(_spec(each, root, reasons.get(each.place)) for each in declared)
    roles, role_problems = _roles(whole.roles, specs, document, nearest)
    servers, server_problems = declared_servers(whole.servers, document, nearest)
    told = located(path, document, [*problems, *role_problems, *server_problems])
    return DeclaredModels(specs, roles, tuple(told), servers)


class _NotModelsError(ValueError):
    """``models`` is neither a list nor keys and values."""


def _rows(models: Any) -> list[tuple[Place, Any]]:
    """Take the list, or the mapping, apart: where each model stands, and what is said of it."""
    if isinstance(models, list):
        return [(("models", index), each) for index, each in enumerate(models)]
    if isinstance(models, dict):
        return [
            (
                ("models", key),
                {"id": key, **each} if isinstance(each, dict) and "id" not in each else each,
            )
            for key, each in models.items()
        ]
    message = f"input should be a valid list, or keys and values by id, not {shown_value(models)}"
    raise _NotModelsError(message)


def _entries(
    rows: list[tuple[Place, Any]], document: "MarkedYaml", nearest: Nearest
) -> tuple[list[_Declared], list[Problem]]:
    from protocol.model_config import ModelEntry  # noqa: PLC0415 - only where there is a file of models

    declared, problems, taken = [], list[Problem](), set[str]()
    for place, value in rows:
        entry, wrong = entry_of(ModelEntry, place, value, document, nearest)
        problems += wrong
        said = document.written(*place, "id") or place[-1]
        good = isinstance(said, str) and 0 < len(said) <= MAX_ID_CHARACTERS and said not in taken
        name = said if good else key_of(place)[:MAX_ID_CHARACTERS]
        taken.add(str(name))
        declared.append(_Declared(place, str(name), entry))
    return declared, problems


def _reasons(declared: list[_Declared], problems: list[Problem]) -> dict[Place, str]:
    """Gather what is wrong by model."""
    found: dict[Place, list[str]] = {each.place: [] for each in declared}
    for place, text in problems:
        found[place[:2]].append(_below(place, text))
    return {
        place: "its declaration can't be used: " + "; ".join(each) for place, each in found.items() if each
    }


def _below(place: Place, text: str) -> str:
    """Say what is wrong by the key below the model or role, if it is about one."""
    return f"{key_of(place[2:])}: {text}" if len(place) > 2 else text  # noqa: PLR2004 - the list, and which of it


def _good(declared: list[_Declared]) -> "Iterator[tuple[Place, ModelEntry]]":
    return ((each.place, each.entry) for each in declared if each.entry is not None)


def _repeated(declared: list[_Declared]) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for place, entry in _good(declared):
        if first.setdefault(entry.id, place) != place:
            yield (*place, "id"), f"{entry.id!r} is the id of {key_of(first[entry.id])} already"
    for place, entry in _good(declared):
        for index, alias in enumerate(entry.aliases):
            if first.setdefault(alias, place) != place or alias == entry.id:
                yield (*place, "aliases", index), f"{alias!r} is a name of {key_of(first[alias])} already"


def _unreachable(declared: list[_Declared], nearest: Nearest) -> Iterator[Problem]:
    names = {name: entry for _, entry in _good(declared) for name in (entry.id, *entry.aliases)}
    for place, entry in _good(declared):
        there = None if entry.fallback is None else names.get(entry.fallback)
        if there is not None and there.external:
            text = f"{entry.fallback!r} is external: the worker can't load it instead"
            yield (*place, "fallback"), text
        elif there is None and entry.fallback is not None:
            yield (*place, "fallback"), f"no model {entry.fallback!r}{nearest(entry.fallback, names)}"


def _cycles(declared: list[_Declared]) -> Iterator[Problem]:
    """Name each ring of fallbacks once, at its first member. Every model is walked over once."""
    names = {name: entry.id for _, entry in _good(declared) for name in (entry.id, *entry.aliases)}
    after = {entry.id: names.get(entry.fallback or "") for _, entry in _good(declared)}
    order = {entry.id: (index, place) for index, (place, entry) in enumerate(_good(declared))}
    walked: set[str] = set()
    for start in after:
        way: dict[str, int] = {}
        at: str | None = start
        while at is not None and at not in walked and at not in way:
            way[at] = len(way)
            at = after.get(at)
        walked |= way.keys()
        if at is None or at not in way:
            continue
        ring = list(way)[way[at] :]
        first = min(range(len(ring)), key=lambda index: order[ring[index]][0])
        shown = [*ring[first:], *ring[:first], ring[first]][:MAX_PROBLEMS]
        yield (*order[ring[first]][1], "fallback"), f"goes round in a circle: {' -> '.join(shown)}"


def _unknown_loaders(declared: list[_Declared]) -> Iterator[Problem]:
    known: dict[str, bool] = {}
    for place, entry in _good(declared):
        loader = _loader_of(entry)
        if loader not in {None, AUTO_LOADER} and not known.setdefault(str(loader), is_loader(str(loader))):
            yield (*place, "loader"), f"no loader {loader!r}; there are {', '.join(loader_names())}"


def _unset(declared: list[_Declared], model_root: Path) -> Iterator[Problem]:
    for place, entry in _good(declared):
        try:
            _paths_of(entry, model_root)
        except ValueError as error:
            yield (*place, "path"), str(error)


def _outside(declared: list[_Declared], model_root: Path) -> Iterator[Problem]:
    for place, entry in _good(declared):
        try:
            paths = _paths_of(entry, model_root)
        except ValueError:
            continue  # told already
        for path in paths:
            try:
                confined(path, model_root)
            except ValueError as error:
                yield (*place, "path"), str(error)


def _roles(
    value: Any, specs: Iterable[ModelSpec], document: "MarkedYaml", nearest: Nearest
) -> tuple[tuple[Role, ...], list[Problem]]:
    from protocol.model_config import RoleEntry  # noqa: PLC0415 - only where there is a file of models

    if value is None:
        return (), []
    if not isinstance(value, dict):
        return (), [(("roles",), f"must be keys and values, not {shown_value(value)}")]
    names = {name: spec for spec in specs for name in (spec.model_id, *spec.aliases)}
    roles, problems = [], list[Problem]()
    for name, said in value.items():
        place: Place = ("roles", name)
        text = document.written(*place)
        keys = {"model": text} if isinstance(text, str) else said
        entry, wrong_keys = entry_of(RoleEntry, place, keys, document, nearest)
        if entry is not None:
            wrong = _wrong_role(name, (entry.model, *entry.fallbacks), names, nearest)
            wrong_keys += [] if wrong is None else [(place, wrong)]
        problems += wrong_keys
        if entry is not None and not wrong_keys:
            roles.append(Role(name, entry.model, tuple(entry.fallbacks)))
        else:
            reason = "can't be used as a role: " + "; ".join(_below(*each) for each in wrong_keys)
            roles.append(Role(str(name)[:MAX_ID_CHARACTERS], "", (), reason))
    return tuple(roles), problems


def _wrong_role(
    name: Any, wanted: tuple[str, ...], names: Mapping[str, ModelSpec], nearest: Nearest
) -> str | None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARACTERS:
        return f"a role's name is a text of up to {MAX_ID_CHARACTERS} characters, not {shown_value(name)}"
    if name in names:
        return f"{name!r} is a name of model {names[name].model_id!r} already"
    missing = next((each for each in wanted if each not in names), None)
    return None if missing is None else f"no model {missing!r}{nearest(missing, names)}"


def _loader_of(entry: "ModelEntry") -> str | None:
    """Return the loader's own name; None for a model that another process holds."""
    from protocol.model_config import LOADER_NAMES  # noqa: PLC0415 - only where there is a file of models

    if entry.external:
        return None
    if entry.loader is None:
        return AUTO_LOADER if entry.factory is None else "module"
    return LOADER_NAMES.get(entry.loader, entry.loader)


def _paths_of(entry: "ModelEntry", model_root: Path) -> tuple[Path, ...]:
    """Return the model's paths, with the home folder and variables in them.

    ValueError for a variable that is not set, unless there is a file whose name has a dollar.
    """
    said = entry.path if isinstance(entry.path, list) else [entry.path] if entry.path is not None else []
    found = []
    for text in said:
        if _ADDRESS.match(text):
            message = f"{text} is an address, and nothing is downloaded: download the file, and declare where it lies"
            raise ValueError(message)
        path = os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 - as the shell reads it, before it is a path
        unset = re.search(r"\$(\w+|\{[^}]*\})", path)
        if unset is not None and not os.path.exists(model_root / path):  # noqa: PTH110 - Path.exists raises for a name too long
            message = f"{text}: {unset[0]} is not set in the worker's environment"
            raise ValueError(message)
        found.append(Path(path))
    return tuple(found)


def _spec(declared: _Declared, model_root: Path, refused: str | None) -> ModelSpec:
    from protocol.model_config import DTYPES  # noqa: PLC0415 - only where there is a file of models

    entry = declared.entry
    if entry is None or refused is not None:
        why = refused or "its declaration can't be used"
        return ModelSpec(declared.model_id, None if entry is None else _loader_of(entry), refused=why)
    paths = tuple(model_root / each for each in _paths_of(entry, model_root))
    keep_alive = entry.keep_alive_seconds
    return ModelSpec(
        model_id=entry.id,
        loader=_loader_of(entry),
        path=next(iter(paths), None),
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
        more_paths=paths[1:],
        aliases=tuple(entry.aliases),
        params=tuple(entry.params.items()),
        preload=entry.preload,
        engine_group=entry.engine_group,
    )
