"""llama.cpp's own server, out of its package, as a process of its own; and such processes behind llama-swap's interface."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.rigs.model_servers import LlamaSwapStandIn

_ROOT = Path(__file__).resolve().parents[2]


class LlamaCpp:
    """One server with one model. It listens on a port that it chooses, and sleeps when it was idle, if told to."""

    def __init__(self, model: Path, *, idle_s: int = -1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rigs.llama_cpp", str(model), str(idle_s)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        if not self.url:
            raise RuntimeError(f"llama.cpp's server ended with {self.process.wait()}")

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 0

    def end(self) -> None:
        """End it, as llama-swap does."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def llama_cpp(model: Path, *, idle_s: int = -1) -> Iterator[LlamaCpp]:
    """Serve a model until the end of the block."""
    up = LlamaCpp(model, idle_s=idle_s)
    try:
        yield up
    finally:
        up.end()


class LlamaSwap(LlamaSwapStandIn):
    """llama-swap's interface before real servers: to unload a model ends its process."""

    def __init__(self, servers: dict[str, LlamaCpp]) -> None:
        super().__init__(dict.fromkeys(servers, 0))
        self._servers = servers
        self.ports = {name: each.port for name, each in servers.items()}

    def unload(self, name: str | None) -> None:
        """End a model's process."""
        if name is not None:
            self._servers[name].end()
        super().unload(name)


def _serve(model: str, idle_s: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {Path(model).stem}
    params.port, params.hostnames = 0, ["127.0.0.1"]
    params.n_ctx, params.n_gpu_layers, params.warmup = 256, 0, False
    # The weights are its own memory then, and come back when it sleeps; mapped, they are the file's pages.
    params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.sleep_idle_seconds = int(idle_s)
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until whoever started it has ended


if __name__ == "__main__":
    _serve(*sys.argv[1:])
