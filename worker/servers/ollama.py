"""Ollama: ``/api/ps`` says what is loaded and how much of it is on the GPU, ``keep_alive: 0`` unloads a model."""

from worker.core.records import HOST
from worker.servers.base import Seen, Served, Step, bytes_of, gone, name_of, rows, unloads
from worker.servers.http import Http

UNLOAD_S = 10.0
"""It answers once the model is gone."""


class Ollama:
    """One Ollama. It does not say whether a model is answering: its ``expires_at`` moves with every use."""

    def __init__(self, http: Http, device_id: str) -> None:
        self._http = http
        self._on_host = device_id == HOST

    def look(self) -> Seen:
        """Ask what is loaded."""
        found = []
        for row in rows(self._http.get("/api/ps"), "models"):
            name, size, on_gpu = (
                name_of(row, "name", "model"),
                bytes_of(row.get("size")),
                bytes_of(row.get("size_vram")),
            )
            if name is None:
                continue
            here = None if size is None or on_gpu is None else size - min(size, on_gpu)
            used = row.get("expires_at")
            found.append(
                Served(name, here if self._on_host else on_gpu, used=used if isinstance(used, str) else None)
            )
        return Seen(tuple(found))

    def steps(self, seen: Seen) -> tuple[Step, ...]:
        """Unload a model."""
        return unloads(seen)

    def give_back(self, step: Step) -> None:
        """Have a model's keep-alive end now. A request that it is answering is answered first."""
        self._http.post(
            "/api/generate", {"model": step.model, "keep_alive": 0, "stream": False}, within_s=UNLOAD_S
        )

    def is_done(self, step: Step, seen: Seen) -> bool:
        """Look whether it is gone."""
        return gone(step, seen)

    def close(self) -> None:
        """Let go."""
        self._http.close()
