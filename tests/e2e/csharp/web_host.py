"""A sample that is a web host, as a process of its own, and asking it."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.csharp.host import REPOSITORY
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import Toolchain


def command(toolchain: Toolchain, project: str) -> list[str]:
    """Build a sample and return how it is started."""
    build([REPOSITORY / project], default_out(), toolchain)
    return [str(toolchain.launcher), str(default_out() / f"{Path(project).stem}.dll")]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: Any
    """JSON where it says so, else text."""


@dataclass
class Web:
    """A web host that runs, and what it logs."""

    process: "subprocess.Popen[str]"
    address: str

    def answer(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask; ``body`` is sent as it is where it is bytes, else as JSON."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": "application/json"} | (headers or {})
        request = urllib.request.Request(self.address + path, sent, told, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return _read(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return _read(refused)

    def chunked(self, method: str, path: str, pieces: list[bytes], headers: dict[str, str]) -> Answer:
        """Send a body whose length is not told beforehand, with these headers alone."""
        connection = HTTPConnection(self.address.removeprefix("http://"), timeout=30)
        with closing(connection):
            connection.request(method, path, iter(pieces), headers, encode_chunked=True)
            return _read(connection.getresponse())

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and body of an answer."""
        answer = self.answer(method, path, body)
        return answer.status, answer.body

    def worker(self) -> int:
        """Return the process id of its worker."""
        [found] = [one.pid for one in psutil.Process(self.process.pid).children()]
        return found

    def log_until(self, text: str) -> str:
        """Read the log to a line with this text, and return all that was read."""
        read = []
        assert self.process.stdout
        for line in self.process.stdout:
            read.append(line)
            if text in line:
                return "".join(read)
        message = f"the host ended without {text!r}"
        raise AssertionError(message)


def _read(answer: Any) -> Answer:
    text = answer.read().decode()
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(
        answer.status, headers, json.loads(text) if "json" in headers.get("content-type", "") else text
    )


@contextmanager
def web_host(toolchain: Toolchain, project: str, *options: str) -> Iterator[Web]:
    """Start a web host on a free port, its worker from this tree with a simulated device."""
    arguments = [
        "--urls=http://127.0.0.1:0",
        f"--MemoryWorker:FileName={sys.executable}",
        f"--MemoryWorker:WorkingDirectory={REPOSITORY}",
        "--MemoryWorker:RestartDelay=00:00:00.001",
        *(
            f"--MemoryWorker:Arguments:{at}={one}"
            for at, one in enumerate(["-m", "memory_worker", "--simulated-device", "64MiB"])
        ),
        *options,
    ]
    with subprocess.Popen(
        [*command(toolchain, project), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=default_out(),
    ) as process:
        try:
            web = Web(process, "")
            web.address = web.log_until("Now listening on").rpartition("on:")[2].strip()
            yield web
        finally:
            process.kill()
