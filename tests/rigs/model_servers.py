"""Stand-ins for other model servers, over real HTTP: each speaks its API, and misbehaves on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, Any]
"""Status, and what is answered: bytes as they are, all else as JSON."""


class Stream:
    """An answer that begins so, and never ends."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning


class StandIn:
    """One server. Set ``mode`` to have it misbehave; ``told`` is every order it got."""

    def __init__(self, models: dict[str, int]) -> None:
        self.sizes = dict(models)
        self.loaded = list(models)
        self.busy = False
        self.keeps = False
        """Whether it answers an order, and does nothing."""
        self.authorization: str | None = None
        self.mode = "well"
        """``slow`` dribbles its answers, ``hung`` never answers, ``huge`` never ends, ``text`` is no JSON, ``other`` is
        another program's JSON, ``broken`` answers 500, ``moved`` sends elsewhere, ``headers`` never ends its headers."""
        self.told: list[str] = []
        self.asked = 0
        self.ended = threading.Event()

    def use(self, name: str) -> None:
        """Load a model if it is not there, and use it."""
        if name not in self.loaded:
            self.loaded.append(name)

    def unload(self, name: str | None) -> None:
        """Do as told."""
        self.told.append(f"unload {name}" if name else "unload all")
        if not self.keeps:
            self.loaded = [each for each in self.loaded if name is not None and each != name]

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        raise NotImplementedError


class OllamaStandIn(StandIn):
    """Ollama, all of whose models are on the GPU but for a tenth. Like it, it puts off what is told while it answers."""

    ahead_s = 0.0
    """By how much its clock, and that of who asks, are ahead."""
    stands_at: datetime | None = None
    """Where its clock stands but for that; None where it goes."""

    def __init__(self, models: dict[str, int]) -> None:
        super().__init__(models)
        self.first: set[str] = set()
        """Models that are being loaded, or give their first answer: their time to expire is counted from now."""
        self._expires = {name: self._later() for name in models}

    def use(self, name: str) -> None:
        """Load a model if it is not there, and use it."""
        super().use(name)
        self._expires[name] = self._later()

    def begin(self, name: str) -> None:
        """Begin a long answer: the timer stands, and by now its end is past."""
        self._expires[name] = self._later(-60)

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        if path == "/api/ps":
            rows = [
                {
                    "name": name,
                    "model": name,
                    "size": self.sizes[name] * 10 // 9,
                    "size_vram": self.sizes[name],
                    "expires_at": self._later() if name in self.first else self._expires[name],
                }
                for name in self.loaded
            ]
            return 200, {"models": rows}
        if path == "/api/generate" and body.get("keep_alive") == 0:
            self._expires[body["model"]] = self._later(0)
            self.unload(body["model"])
            return 200, {"model": body["model"], "response": "", "done": True, "done_reason": "unload"}
        return 404, {"error": "not found"}

    def _later(self, after_s: float = 300) -> str:
        # Nanoseconds, and the zone of the machine, as Go writes them.
        zone = timezone(timedelta(hours=-7))
        return (
            (
                (self.stands_at or datetime.now(zone)).astimezone(zone)
                + timedelta(seconds=self.ahead_s + after_s)
            )
            .isoformat()
            .replace("-07:00", "123-07:00")
        )


class ComfyUiStandIn(StandIn):
    """ComfyUI, whose torch keeps 100 MB for reuse."""

    cached = 100_000_000

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        live = sum(self.sizes[name] for name in self.loaded)
        if path == "/system_stats":
            device = {
                "name": "cuda:0",
                "type": "cuda",
                "index": 0,
                "vram_total": 8 * 2**30,
                "vram_free": 2**30,
            }
            held = {"torch_vram_total": live + self.cached, "torch_vram_free": self.cached}
            return 200, {"system": {}, "devices": [device | held]}
        if path == "/queue":
            return 200, {"queue_running": [[0, "id", {}]] if self.busy else [], "queue_pending": []}
        if path == "/free":
            self.unload(None)
            self.cached = 0
            return 200, None
        return 404, {}


class LlamaSwapStandIn(StandIn):
    """llama-swap, without upstream processes. Like it, it breaks off what an upstream that is to end is answering."""

    ports: dict[str, int] = {}  # noqa: RUF012 - replaced by who needs it
    answering: tuple[str, ...] = ()
    """Models that answer a request."""
    in_flight = True
    """Whether it tells of them: early versions do not."""

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        if path == "/running":
            state = "starting" if self.busy else "ready"
            rows = [
                {"model": name, "state": state, "proxy": f"http://localhost:{self.ports.get(name, 1)}"}
                for name in self.loaded
            ]
            return 200, {"running": rows}
        if path == "/api/events":
            snapshot = {"operation": "snapshot", "requests": [{"model": name} for name in self.answering]}
            said = [("logData", {"data": "a line\n" * 1000}), ("modelStatus", [])]
            said += [("inflight", snapshot)] if self.in_flight else []
            lines = (
                json.dumps({"type": kind, "data": json.dumps(data)}, separators=(",", ":"))
                for kind, data in said
            )
            return 200, Stream(b"".join(f"event:message\ndata:{line}\n\n".encode() for line in lines))
        if method == "POST" and path.startswith("/api/models/unload/"):
            self.unload(unquote(path.removeprefix("/api/models/unload/")))
            return 200, None
        return 404, {}


class LlamaServerStandIn(StandIn):
    """llama-server as a router."""

    ports: dict[str, int] = {}  # noqa: RUF012 - replaced by who needs it

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        if path == "/props":
            return 200, {"role": "router"}
        if path == "/models":
            rows = [
                {
                    "id": name,
                    "status": {
                        "value": ("loading" if self.busy else "loaded")
                        if name in self.loaded
                        else "unloaded",
                        "args": ["llama-server", "--port", "0", "--port", str(self.ports.get(name, 1))],
                    },
                }
                for name in self.sizes
            ]
            return 200, {"data": rows}
        if path == "/models/unload":
            self.unload(body["model"])
            return 200, {"success": True}
        return 404, {}


class VllmStandIn(StandIn):
    """vLLM with sleep mode. Like it, it breaks off what it is answering when it is put to sleep, and wakes when told."""

    sleeps = True
    """Whether it was started with sleep mode."""
    counts = True
    """Whether it was started with --enable-server-load-tracking."""
    waiting = 0
    """Requests that wait for it to wake."""
    running: str | None = None
    """What its metrics say runs, where that is no number of requests."""

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        running = int(self.busy)
        if path == "/load":
            return 200, {"server_load": running + self.waiting if self.counts else 0}
        if path == "/metrics":
            return 200, (
                "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
                "# TYPE vllm:num_requests_running gauge\n"
                f'vllm:num_requests_running{{engine="0",model_name="m"}} {self.running or f"{running}.0"}\n'
                'vllm:num_requests_waiting{engine="0",model_name="m"} 0.0\n'
                'vllm:prompt_tokens_total{engine="0",model_name="m"} 7.0\n'
            ).encode()
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.sizes]}
        return self._sleep(path, query, body) if self.sleeps else (404, {"detail": "Not Found"})

    def _sleep(self, path: str, query: str, body: Any) -> Answer:
        if path == "/is_sleeping":
            return 200, {"is_sleeping": not self.loaded}
        if path == "/sleep":
            self.unload(query)
            self.loaded = self.loaded if self.keeps else []
            return 200, None
        if path in {"/wake_up", "/collective_rpc"}:
            self.told.append(
                f"{path}?{query}" if query else path if body == {} else f"{path} {body['method']}"
            )
            if path == "/wake_up" and query in {"", "tags=kv_cache"}:
                self.loaded = list(self.sizes)
            return 200, None
        return 404, {"detail": "Not Found"}


class OpenAiStandIn(StandIn):
    """Anything with OpenAI's interface."""

    def answer(self, method: str, path: str, query: str, body: Any) -> Answer:
        """Answer a request."""
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.sizes]}
        return 404, {}


STAND_INS: dict[str, Callable[[dict[str, int]], StandIn]] = {
    "ollama": OllamaStandIn,
    "comfyui": ComfyUiStandIn,
    "llama-swap": LlamaSwapStandIn,
    "llama-server": LlamaServerStandIn,
    "vllm": VllmStandIn,
    "openai": OpenAiStandIn,
}


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do("GET")

        def do_POST(self) -> None:
            self._do("POST")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _do(self, method: str) -> None:
            if server.ended.is_set():  # its process would be gone, and its connections with it
                self.close_connection = True
                return
            server.asked += 1
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            parts = urlsplit(self.path)
            if server.authorization is not None and self.headers.get("authorization") != server.authorization:
                self._send(401, b'{"error": "who are you?"}')
                return
            if server.mode == "well":
                self._answer(*server.answer(method, parts.path, parts.query, body))
            else:
                self._misbehave(server.mode)

        def _answer(self, status: int, said: Any) -> None:
            if isinstance(said, Stream):
                self._begin(status, None)
                self._write(said.beginning)
                server.ended.wait(60)
                self.close_connection = True
                return
            plain = said if isinstance(said, bytes) else json.dumps(said).encode()
            self._send(status, b"" if said is None else plain)

        def _misbehave(self, mode: str) -> None:
            match mode:
                case "hung":
                    server.ended.wait(60)
                    self.close_connection = True
                case "huge":
                    self._begin(200, 2**40)
                    while not server.ended.is_set() and self._write(b'{"models": [' + b" " * 2**16):
                        pass
                case "slow":
                    self._begin(200, 100)
                    self._dribble()
                case "headers":
                    self._write(b"HTTP/1.1 200 OK\r\nx-header: ")
                    self._dribble()
                case "text":
                    self._send(200, b"<html>It works!</html>")
                case "other":
                    self._send(
                        200,
                        b'{"models": {"of": "another kind"}, "data": 3, "devices": null, "running": "no"}',
                    )
                case "broken":
                    self._send(500, b'{"error": "out of \x1b[31mluck"}')
                case "moved":
                    self.send_response(302)
                    self.send_header("location", "http://127.0.0.1:1/elsewhere")
                    self.send_header("content-length", "0")
                    self.end_headers()
                case _:
                    raise ValueError(mode)

        def _dribble(self) -> None:
            while not server.ended.is_set() and self._write(b" "):
                time.sleep(0.05)  # a server's own pace, which no test waits for

        def _begin(self, status: int, length: int | None) -> None:
            self.send_response(status)
            if length is not None:
                self.send_header("content-length", str(length))
            self.end_headers()

        def _send(self, status: int, said: bytes) -> None:
            self._begin(status, len(said))
            self._write(said)

        def _write(self, said: bytes) -> bool:
            try:
                self.wfile.write(said)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return False
            return True

    return Handler


@contextmanager
def serving(server: StandIn, port: int = 0) -> Iterator[str]:
    """Serve on a port of this machine's; gives the address."""
    listener = ThreadingHTTPServer(("127.0.0.1", port), _handler(server))
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        server.ended.set()
        listener.shutdown()
        listener.server_close()
        thread.join()
