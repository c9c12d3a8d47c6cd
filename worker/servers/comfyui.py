"""ComfyUI: ``/system_stats`` says what torch holds there, ``/free`` gives its cache or its models up."""

from typing import Any

from worker.core.records import HOST
from worker.servers.base import Seen, Served, Step, bytes_of, gone, rows
from worker.servers.http import Http

MODELS = "models"
"""It does not say which models it has loaded, so they are told of as one."""
FREE_CACHE = "given up: what torch keeps for reuse"
DROPPED = "unloaded, and what it computed dropped"
_LEAST_BYTES = 64 * 2**20
"""Less than this in live tensors is no model."""


class ComfyUi:
    """One ComfyUI. It takes an order between two prompts, so a queue that runs is busy."""

    def __init__(self, http: Http, device_id: str) -> None:
        self._http = http
        self._index = 0 if device_id == HOST else int(device_id.rpartition(":")[2] or 0)
        # All mutable state: whether the models that are there were to be unloaded.
        self._tried = False

    def look(self) -> Seen:
        """Ask what torch holds, and whether a prompt runs or waits."""
        device = self._device(list(rows(self._http.get("/system_stats"), "devices")))
        queue = self._http.get("/queue")
        busy = (
            any(queue.get(name) for name in ("queue_running", "queue_pending"))
            if isinstance(queue, dict)
            else True
        )
        reserved, cached = bytes_of(device.get("torch_vram_total")), bytes_of(device.get("torch_vram_free"))
        if reserved is None or cached is None or cached > reserved:
            return Seen((), busy=busy)
        live = reserved - cached
        models = (Served(MODELS, live, busy=busy),) if live >= _LEAST_BYTES else ()
        if not models:
            self._tried = False
        return Seen(models, busy=busy, shared_bytes=cached)

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Unload the models, and torch's cache with them; where they were and something stayed, what it computed, too.

        What torch keeps beside no model costs nothing to have again.
        """
        if seen.busy:
            return ()
        if not seen.models:
            return (Step(FREE_CACHE, seen.shared_bytes, rebuild_ms=0.0),) if seen.shared_bytes else ()
        size = (seen.models[0].size_bytes or 0) + (seen.shared_bytes or 0)
        return (Step(DROPPED if self._tried else "unloaded", size, MODELS),)

    def give_back(self, step: Step) -> None:
        """Tell it to: it answers at once, and does it when its queue next looks. Models always go before what it computed."""
        self._tried = step.model is not None
        self._http.post("/free", {"unload_models": True, "free_memory": step.name == DROPPED})

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Look whether torch holds less."""
        if step.model is None:
            return (seen.shared_bytes or 0) <= step.bytes // 2
        return gone(step, seen)

    def close(self) -> None:
        """Let go."""
        self._http.close()

    def _device(self, devices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the device that the server is declared for: by its index, else the only one."""
        same = [each for each in devices if each.get("index") == self._index]
        return (same or devices or [{}])[0]
