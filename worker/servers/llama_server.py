"""llama.cpp's own server: as a router it unloads models by name; with one model it sleeps when it likes, and is only asked."""

from itertools import pairwise
from typing import Any

from worker.servers.base import Seen, Served, Step, gone, name_of, rows, unloads
from worker.servers.http import Http, ServerError

UNLOAD_S = 10.0
_HERE = frozenset({"loaded", "loading"})


class LlamaServer:
    """One llama-server. Its models' bytes are their processes'.

    1. As a router, ``/models`` lists every model with its status; ``/models/unload`` ends one's process.
    2. With one model it gives nothing back on request, but sleeps by itself after ``--sleep-idle-seconds``. Only
       ``/props`` is asked, which says so: any other question would count as a use, and wake it or keep it awake.
    """

    def __init__(self, http: Http, _device_id: str) -> None:
        self._http = http

    def look(self) -> Seen:
        """Ask what is loaded."""
        props = self._http.get("/props")
        if isinstance(props, dict) and props.get("role") == "router":  # 1
            return self._router()
        if isinstance(props, dict) and props.get("is_sleeping") is True:
            return Seen(())
        name = name_of(props, "model_alias", "model_path") if isinstance(props, dict) else None  # 2
        if name is None:
            raise ServerError("/props names no model: it is another kind of server, or another version")
        return Seen((Served(name, None),), busy=True)

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Unload a router's model."""
        return unloads(seen)

    def give_back(self, step: Step) -> None:
        """Unload a router's model."""
        self._http.post("/models/unload", {"model": step.model}, within_s=UNLOAD_S)

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Look whether it is gone."""
        return gone(step, seen)

    def close(self) -> None:
        """Let go."""
        self._http.close()

    def _router(self) -> Seen:
        found = []
        for row in rows(self._http.get("/models"), "data"):
            name, status = name_of(row, "id"), _status(row)
            if name is not None and status in _HERE:
                found.append(Served(name, None, busy=status == "loading", port=_port(row)))
        return Seen(tuple(found))


def _status(row: dict[str, Any]) -> str | None:
    status = row.get("status")
    value = status.get("value") if isinstance(status, dict) else None
    return value if isinstance(value, str) else None


def _port(row: dict[str, Any]) -> int | None:
    """Read the port that a router gave a model's process; its command line ends with the options that won."""
    status = row.get("status")
    said = status.get("args") if isinstance(status, dict) else None
    options = [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
    ports = [after for option, after in pairwise(options) if option == "--port"]
    return int(ports[-1]) if ports and ports[-1].isdecimal() and 0 < int(ports[-1]) < 2**16 else None
