"""llama-swap: ``/running`` says which upstream servers run, each with its own process; ``/api/models/unload/MODEL`` ends one."""

from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from worker.servers.base import Seen, Served, Step, gone, name_of, rows, unloads
from worker.servers.http import Http, ServerError

UNLOAD_S = 10.0
"""It answers once the process has ended."""
_READY = "ready"
_IN_FLIGHT = b'"type":"inflight"'


class LlamaSwap:
    """One llama-swap. What an upstream takes is what its process does."""

    def __init__(self, http: Http, _device_id: str) -> None:
        self._http = http

    def look(self) -> Seen:
        """Ask what runs. One that starts or stops is busy."""
        found = []
        for row in rows(self._http.get("/running"), "running"):
            name = name_of(row, "model")
            if name is not None:
                found.append(
                    Served(name, None, busy=row.get("state", _READY) != _READY, port=_port(row.get("proxy")))
                )
        return Seen(tuple(found))

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """End an upstream."""
        return unloads(seen)

    def is_idle(self, step: Step) -> bool:
        """Ask which requests are being answered: ending an upstream breaks those off. Its stream of events begins with them."""
        line = self._http.line("/api/events", lambda line: _IN_FLIGHT in line)
        try:
            said = orjson.loads(orjson.loads(line.removeprefix(b"data:"))["data"])
            busy = {name_of(row, "model") for row in rows(said, "requests")}
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ServerError("/api/events does not say what is being answered") from error
        return step.model not in busy

    def give_back(self, step: Step) -> None:
        """End one."""
        self._http.post(f"/api/models/unload/{quote(step.model or '', safe='/')}", within_s=UNLOAD_S)

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Look whether it is gone."""
        return gone(step, seen)

    def close(self) -> None:
        """Let go."""
        self._http.close()


def _port(url: Any) -> int | None:
    try:
        return urlsplit(url).port if isinstance(url, str) else None
    except ValueError:
        return None
