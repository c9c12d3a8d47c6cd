"""Any server with OpenAI's interface: it is asked which models it serves, and never told anything."""

from worker.servers.base import Seen, Served, Step, name_of, rows
from worker.servers.http import Http


class OpenAi:
    """One such server. Whether a model that it serves is loaded is not told."""

    def __init__(self, http: Http, _device_id: str) -> None:
        self._http = http

    def look(self) -> Seen:
        """Ask what it serves."""
        names = (name_of(row, "id") for row in rows(self._http.get("/v1/models"), "data"))
        found = [each for each in names if each is not None]
        return Seen(tuple(Served(name, None) for name in found), busy=True)

    def steps(self, seen: Seen) -> tuple[Step, ...]:  # noqa: ARG002 - the protocol's signature; such a server offers no steps, whatever was seen of it
        """Return none."""
        return ()

    def give_back(self, step: Step) -> None:
        """Never called."""
        raise NotImplementedError(step)

    def is_done(self, step: Step, seen: Seen) -> bool:  # noqa: ARG002 - there is no step
        """Never called."""
        return False

    def close(self) -> None:
        """Let go."""
        self._http.close()
