"""vLLM: sleeps at two levels where it runs with ``--enable-sleep-mode`` and ``VLLM_SERVER_DEV_MODE=1``, and is woken again."""

import time

import psutil

from worker.core.records import HOST
from worker.servers.base import Seen, Served, Step, name_of, rows
from worker.servers.http import Http, ServerError

SLEEP_S = 30.0
"""Level 1 copies the weights to host memory before it answers."""
WAKE_S = 120.0
"""Waking from level 2 loads the weights from their files before it answers."""
_NOT_FOUND = 404
_KEPT_SHARE = 0.1
"""What a process that sleeps keeps on the device: its context and graphs (vLLM's docs speak of over 90 % freed)."""

LEVEL_1 = "put to sleep, its weights in host memory"
LEVEL_2 = "put to sleep, without its weights"
_BUS_BYTES_PER_MS = 8 * 2**30 / 1000
"""How fast weights come back from host memory: what PCIe 4.0 with eight lanes does at least."""
_ASLEEP_S = 60.0
"""Before it is woken only because there is room: what it made room for may not have come yet."""
_IN_USE = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Vllm:
    """One vLLM: one model, whose bytes are its process's.

    Level 1 keeps the weights in host memory, so that waking copies them back; level 2 drops them, and waking loads them
    from their files: without that it would answer with what happens to lie there. Asleep it answers no one until it is
    told to wake, so what was put to sleep here is woken here.
    """

    def __init__(self, http: Http, device_id: str) -> None:
        self._http = http
        self._on_host = device_id == HOST
        # All mutable state: by which step it was put to sleep here and when, how many orders began and ended, and what
        # waking took, by step.
        self._slept: Step | None = None
        self._slept_at = 0.0
        self._orders = 0
        self._woken_ms: dict[str, float] = {}

    def look(self) -> Seen:
        """Ask whether it sleeps, and which model it has. One that can't sleep is in use, so nothing is asked of it."""
        orders = self._orders
        try:
            said = self._http.get("/is_sleeping")
        except ServerError as error:
            if error.status != _NOT_FOUND:
                raise
            said, sleeps = None, False
        else:
            sleeps = True
        if isinstance(said, dict) and said.get("is_sleeping") is True:
            return Seen(())
        if orders == self._orders and not orders % 2:  # it is not being told to sleep meanwhile
            self._slept = None
        names = (name_of(row, "id") for row in rows(self._http.get("/v1/models"), "data"))
        name = next((each for each in names if each is not None), None)
        load = self._load()
        found = () if name is None else (Served(name, None, busy=load > 0),)
        return Seen(found, busy=load > 0 or not sleeps)

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Sleep at level 1 where the machine has memory for the weights and that is not what is to be given back, else at level 2."""
        if seen.busy or not seen.models or not seen.models[0].size_bytes:
            return ()
        name, size = seen.models[0].name, int(seen.models[0].size_bytes * (1 - _KEPT_SHARE))
        if not self._on_host and psutil.virtual_memory().available > 2 * size:
            woken_ms = self._woken_ms.get(LEVEL_1, size / _BUS_BYTES_PER_MS)
            return (Step(LEVEL_1, size, name, rebuild_ms=woken_ms),)
        return (Step(LEVEL_2, size, name, rebuild_ms=self._woken_ms.get(LEVEL_2)),)

    def is_idle(self, step: Step) -> bool:  # noqa: ARG002 - it sleeps as a whole
        """Ask its metrics: to sleep aborts what is being answered, and ``/load`` counts only where that is switched on."""
        lines = [line for line in self._http.text("/metrics").splitlines() if line.startswith(_IN_USE)]
        try:
            found = [float(line.rpartition(" ")[2]) for line in lines]
        except ValueError:
            found = []
        if not found:
            raise ServerError("/metrics does not say whether a request is being answered")
        return not any(found)

    def give_back(self, step: Step) -> None:
        """Have it sleep."""
        self._orders += 1
        try:
            self._slept, self._slept_at = step, time.monotonic()  # though its answer be lost
            self._http.post(f"/sleep?level={1 if step.name == LEVEL_1 else 2}", within_s=SLEEP_S)
        finally:
            self._orders += 1

    @property
    def asleep(self) -> str | None:
        """Say what wakes it."""
        slept = self._slept
        if slept is None:
            return None
        if slept.name == LEVEL_1:
            return "POST /wake_up wakes it"
        return "POST /wake_up?tags=weights, /collective_rpc {method: reload_weights}, /wake_up?tags=kv_cache wake it"

    def wake(self, free_bytes: int | None) -> bool:
        """Wake it where it was put to sleep here and may be again. Returns whether it was. ServerError.

        1. Not where what it needs is not free: a vLLM that wakes without ends.
        2. Where a request waits for it, as far as it counts them.
        3. Where as much as it needs would stay free beside it, and it has slept for a minute.
        """
        slept = self._slept
        if slept is None or (free_bytes is not None and free_bytes < slept.bytes):  # 1
            return False
        is_wanted = self._load() > 0  # 2
        is_roomy = free_bytes is not None and free_bytes >= 2 * slept.bytes  # 3
        if not is_wanted and not (is_roomy and time.monotonic() - self._slept_at >= _ASLEEP_S):
            return False
        began = time.monotonic()
        if slept.name == LEVEL_1:
            self._http.post("/wake_up", within_s=WAKE_S)
        else:
            self._http.post("/wake_up?tags=weights", within_s=WAKE_S)
            self._http.post("/collective_rpc", {"method": "reload_weights"}, within_s=WAKE_S)
            self._http.post("/wake_up?tags=kv_cache", within_s=WAKE_S)
        self._woken_ms[slept.name] = (time.monotonic() - began) * 1000
        self._slept = None
        return True

    def is_done(self, step: Step, seen: Seen) -> bool:  # noqa: ARG002 - it sleeps as a whole
        """Look whether it sleeps."""
        return not seen.models

    def close(self) -> None:
        """Let go."""
        self._http.close()

    def _load(self) -> int:
        """Ask how many requests are being answered or wait; 0 where it does not count them."""
        try:
            said = self._http.get("/load")
        except ServerError as error:
            if error.status != _NOT_FOUND:
                raise
            return 0
        load = said.get("server_load") if isinstance(said, dict) else None
        return load if type(load) is int else 0
