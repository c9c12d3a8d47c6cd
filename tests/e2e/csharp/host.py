"""What the tests of the C# host share: services on real worker processes, and looking at processes from outside."""

import contextlib
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rigs.dotnet import runtime
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import Toolchain

REPOSITORY = Path(__file__).resolve().parents[3]
FAKE = str(REPOSITORY / "tests" / "rigs" / "fake_worker.py")
CLIENT = "csharp_host/src/MemoryWorker.Client/MemoryWorker.Client.csproj"

wait = runtime.wait


def strings(values: list[str]) -> Any:
    """Return a .NET array of strings."""
    from System import Array, String

    return Array[String](values)


def milliseconds(value: float) -> Any:
    """Return a TimeSpan."""
    from System import TimeSpan

    return TimeSpan.FromMilliseconds(value)


def options(arguments: list[str], **changes: Any) -> Any:
    """Return PythonWorkerOptions that start this Python with the arguments."""
    from MemoryWorker.Client import PythonWorkerOptions, WorkerRestartOptions

    restart = WorkerRestartOptions()
    restart.InitialDelay = milliseconds(changes.pop("delay_ms", 1))
    restart.MaxDelay = milliseconds(changes.pop("max_delay_ms", 20))
    restart.MaxRestarts = changes.pop("max_restarts", 5)
    restart.BreakDuration = milliseconds(changes.pop("break_ms", 60_000))
    made = PythonWorkerOptions()
    made.FileName = sys.executable
    made.Arguments = strings(arguments)
    made.WorkingDirectory = str(REPOSITORY)
    made.Restart = restart
    for name, value in changes.items():
        setattr(made, name, value)
    return made


Make = Callable[..., Any]


@pytest.fixture
def fake(load: Any) -> Iterator[Make]:
    """Return ``fake(*arguments, **options)``: a service on the scripted worker, disposed of afterwards."""
    load(CLIENT)
    with _services([FAKE]) as make:
        yield make


@pytest.fixture
def real(load: Any) -> Iterator[Make]:
    """Return ``real(*arguments, **options)``: a service on the worker itself, disposed of afterwards."""
    load(CLIENT)
    with _services(["-m", "worker"]) as make:
        yield make


@contextlib.contextmanager
def _services(command: list[str]) -> Iterator[Make]:
    from MemoryWorker.Client import PythonWorkerService

    made: list[Any] = []

    def make(*arguments: str, **changes: Any) -> Any:
        made.append(PythonWorkerService(options([*command, *arguments], **changes)))
        return made[-1]

    try:
        yield make
    finally:
        for service in made:
            wait(service.DisposeAsync())


def call(
    service: Any,
    action: str,
    *,
    token: Any = None,
    timeout_ms: float | None = None,
    progress: Any = None,
    **data: Any,
) -> Any:
    """Start a call with plain JSON and return its task."""
    from MemoryWorker.Client import JsonData, WorkerCallOptions
    from MemoryWorker.Client.Protocol import WireAction

    how = WorkerCallOptions()
    if timeout_ms is not None:
        how.Timeout = milliseconds(timeout_ms)
    if progress is not None:
        how.Progress = progress
    return execute(service, WireAction.Plain(action), JsonData.Parse(json.dumps(data)), how, token)


def execute(service: Any, action: Any, request: Any, how: Any = None, token: Any = None) -> Any:
    """Start a typed call and return its task."""
    import System
    from System.Threading import CancellationToken

    row = System.Object.GetType(action)
    takes, answers = (importable(kind) for kind in row.GetGenericArguments())
    return service.ExecuteAsync[takes, answers](
        action, request, how, token or getattr(CancellationToken, "None")
    )


def importable(kind: Any) -> Any:
    """Return the class that Python imports for a .NET type."""
    return getattr(importlib.import_module(kind.Namespace), kind.Name)


def ask(service: Any, action: str, **data: Any) -> dict[str, Any]:
    """Make a call with plain JSON and return its answer."""
    return answer(call(service, action, **data))


def answer(task: Any) -> dict[str, Any]:
    """Wait for a call with plain JSON and return its answer."""
    return json.loads(wait(task).Value.GetRawText())


class Watched:
    """Collects what an event of a service raises; ``next()`` waits for one more."""

    def __init__(self, service: Any, event: str) -> None:
        self.seen: list[Any] = []
        self._came = threading.Semaphore(0)
        getattr(service, f"add_{event}")(self._delegate(service, event))

    def next(self) -> Any:
        assert self._came.acquire(timeout=30), "no event came"
        return self.seen[-1]

    def until(self, wanted: Callable[[Any], bool]) -> Any:
        """Return the first that is wanted, of those that came or will."""
        at = 0
        while True:
            for one in self.seen[at:]:
                at += 1
                if wanted(one):
                    return one
            assert self._came.acquire(timeout=30), "no event came"

    def _delegate(self, service: Any, event: str) -> Any:
        import System

        kind = System.Object.GetType(service).GetEvent(event).EventHandlerType.GetGenericArguments()[0]

        def handle(_sender: Any, one: Any) -> None:
            self.seen.append(one)
            self._came.release()

        return System.EventHandler[kind](handle)


def run_probe(toolchain: Toolchain, name: str, *arguments: str) -> dict[str, Any]:
    """Build a program beside these tests, run it, and return what it says as JSON, with its stderr as ``log``."""
    build([REPOSITORY / "tests" / "e2e" / "csharp" / name / f"{name}.csproj"], default_out(), toolchain)
    command = [str(toolchain.launcher), str(default_out() / f"{name}.dll"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said | {"log": done.stderr}


def gone(pid: int) -> bool:
    """Wait until a process has ended; false where it does not within 10 s."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def make(kind: Any, **fields: Any) -> Any:
    """Return a request with its fields assigned, as an object initializer would."""
    made = kind()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def progress_into(kind: Any, seen: list[Any]) -> Any:
    """Return an IProgress<kind> that appends to a list at once."""
    import System

    def report(_self: Any, value: Any) -> None:
        seen.append(value)

    name = f"Progress{id(seen)}"
    body = {"__namespace__": "Tests", "Report": report}
    return type(name, (System.IProgress[kind],), body)()


def until(holds: Any) -> None:
    """Look again until it holds, at most 30 s."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def sent(journal: Path, action: str) -> int:
    """Count how often the workers received an action."""
    return sum(line.split()[0] == action for line in journal.read_text().splitlines())


def ask_until(service: Any, refused: Any) -> dict[str, Any]:
    """Ask again while the break lasts, at most 30 s."""
    until = time.monotonic() + 30
    while True:
        try:
            return ask(service, "fake.echo", value=1)
        except refused as problem:
            if problem.RetryAt is None or time.monotonic() > until:
                raise


def wait_started(service: Any) -> int:
    """Start the worker and return its process id."""
    wait(service.StartAsync())
    pid: int = service.Snapshot.ProcessId
    return pid
