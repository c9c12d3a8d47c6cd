"""Reading ``servers`` of a file of models: other model servers on this machine."""

from typing import TYPE_CHECKING, Any

from worker.core.models import ServerSpec
from worker.loaders.complaints import Nearest, Place, Problem, entry_of, shown_value

if TYPE_CHECKING:
    from worker.loaders.marked_yaml import MarkedYaml


def declared_servers(
    value: Any, document: "MarkedYaml", nearest: Nearest
) -> tuple[tuple[ServerSpec, ...], list[Problem]]:
    """Read ``servers``: a list, or keys and values by name. One that is wrong is told of and left out."""
    from protocol.model_config import SERVER_PORTS, ServerEntry  # noqa: PLC0415 - only where servers are declared

    if value is None:
        return (), []
    rows: list[tuple[Place, Any, dict[str, Any]]]
    if isinstance(value, dict):
        rows = [(("servers", key), each, {"name": key}) for key, each in value.items()]
    elif isinstance(value, list):
        rows = [(("servers", index), each, {}) for index, each in enumerate(value)]
    else:
        return (), [(("servers",), f"must be a list, or keys and values by name, not {shown_value(value)}")]
    found, problems = dict[str, ServerSpec](), list[Problem]()
    for place, said, named in rows:
        keys = named | said if isinstance(said, dict) else said
        entry, wrong = entry_of(ServerEntry, place, keys, document, nearest)
        problems += wrong
        if entry is None:
            continue
        name = entry.name or entry.kind
        if name in found:
            problems.append((place, f"{name!r} is the name of another server; give it one of its own"))
            continue
        reload_ms = None if entry.reload_seconds is None else 1000 * entry.reload_seconds
        found[name] = ServerSpec(
            name=name,
            kind=entry.kind,
            url=entry.url or f"http://127.0.0.1:{SERVER_PORTS[entry.kind]}",
            device_id=None if entry.device == "auto" else entry.device,
            authorization_env=entry.authorization_env,
            reload_ms=reload_ms,
        )
    return tuple(found.values()), problems
