"""vLLM: sleeps at two levels where it runs with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``."""

import psutil

from worker.servers.base import Seen, Served, Step, name_of, rows
from worker.servers.http import Http

SLEEP_S = 30.0
"""Level 1 copies the weights to host memory before it answers."""
_KEPT_SHARE = 0.1
"""What a process that sleeps keeps on the device: its context and graphs (vLLM's docs speak of over 90 % freed)."""

LEVEL_1 = "put to sleep, its weights in host memory"
LEVEL_2 = "put to sleep, without its weights"
_BUS_BYTES_PER_MS = 8 * 2**30 / 1000
"""How fast weights come back from host memory: what PCIe 4.0 with eight lanes does at least."""


class Vllm:
    """One vLLM: one model, whose bytes are its process's.

    Level 1 keeps the weights in host memory, so that waking copies them back; level 2 drops them, and waking loads them
    from their files.
    """

    def __init__(self, http: Http, _device_id: str) -> None:
        self._http = http

    def look(self) -> Seen:
        """Ask whether it sleeps, and which model it has."""
        said = self._http.get("/is_sleeping")
        asleep = isinstance(said, dict) and said.get("is_sleeping") is True
        if asleep:
            return Seen(())
        load = self._http.get("/load")
        running = load.get("server_load") if isinstance(load, dict) else None
        names = (name_of(row, "id") for row in rows(self._http.get("/v1/models"), "data"))
        name = next((each for each in names if each is not None), None)
        busy = type(running) is int and running > 0
        return Seen(() if name is None else (Served(name, None, busy=busy),), busy=busy)

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Sleep at level 1 where the machine has memory for the weights, else at level 2."""
        if seen.busy or not seen.models or not seen.models[0].size_bytes:
            return ()
        name, size = seen.models[0].name, int(seen.models[0].size_bytes * (1 - _KEPT_SHARE))
        if psutil.virtual_memory().available > 2 * size:
            return (Step(LEVEL_1, size, name, rebuild_ms=size / _BUS_BYTES_PER_MS),)
        return (Step(LEVEL_2, size, name),)

    def give_back(self, step: Step) -> None:
        """Have it sleep."""
        level = 1 if step.name == LEVEL_1 else 2
        self._http.post(f"/sleep?level={level}", within_s=SLEEP_S)

    def is_done(self, step: Step, seen: Seen) -> bool:  # noqa: ARG002 - it sleeps as a whole
        """Look whether it sleeps."""
        return not seen.models

    def close(self) -> None:
        """Let go."""
        self._http.close()
