"""What a host sees of a worker that starts, or does not."""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import (
    FAKE,
    REPOSITORY,
    Make,
    Watched,
    answer,
    ask,
    ask_until,
    call,
    fake,
    gone,
    milliseconds,
    options,
    until,
    wait,
)
from tests.e2e.csharp.interpreters import script

__all__ = ["fake"]


def test_no_such_executable(load: Any, fake: Make) -> None:
    """A start that cannot work says so, with the system's reason."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    service = PythonWorkerService(options([], FileName="/no/such/python", max_restarts=0))
    with pytest.raises(WorkerStartException, match="/no/such/python"):
        wait(service.StartAsync())
    wait(service.DisposeAsync())


def test_no_such_folder(fake: Make, tmp_path: Path) -> None:
    """A working directory that is not there is named; the interpreter is not blamed."""
    from MemoryWorker.Client import WorkerStartException

    missing = tmp_path / "nowhere"
    service = fake(WorkingDirectory=str(missing), max_restarts=0)
    with pytest.raises(WorkerStartException, match="WorkingDirectory") as caught:
        wait(service.StartAsync())
    assert f"WorkingDirectory '{missing}' is not there" in caught.value.Message
    assert "No such file" not in caught.value.Message


@pytest.mark.parametrize(
    ("module", "older", "said"),
    [
        ("worker", "del enum.StrEnum", "cannot import name 'StrEnum'"),
        ("memory_worker", "sys.version_info = (3, 9, 2)", "it needs Python 3.11"),
    ],
)
def test_a_python_that_is_too_old(
    load: Any, fake: Make, tmp_path: Path, module: str, older: str, said: str
) -> None:
    """An interpreter without what 3.11 brought: the exception says what is needed, and which one was started."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    old = tmp_path / "python3.9"
    program = (
        f"import enum, runpy, sys; {older}; runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
    )
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    old.chmod(0o755)
    service = PythonWorkerService(options(["-m", module], FileName=str(old), max_restarts=0))
    with pytest.raises(WorkerStartException, match=r"needs Python 3\.11 or newer, and '") as caught:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert f"'{old}' is older" in caught.value.Message
    assert said in caught.value.Message


@pytest.mark.parametrize(
    ("file", "is_old"),
    [
        ("/usr/lib/python3.9/runpy.py", True),
        ("C:\\Python310\\lib\\runpy.py", True),
        ("/usr/lib/python3.12/runpy.py", False),
        ("<frozen runpy>", False),
    ],
)
def test_the_traceback_of_a_python_that_is_too_old(
    load: Any, fake: Make, tmp_path: Path, file: str, *, is_old: bool
) -> None:
    """It may not even get to what 3.11 brought: its version is in its traceback."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    old = tmp_path / "python3"
    old.write_text(
        f"#!/bin/sh\ncat >&2 <<'END'\nTraceback (most recent call last):\n"
        f'  File "{file}", line 197, in _run_module_as_main\nSyntaxError: invalid syntax\nEND\nexit 1\n'
    )
    old.chmod(0o755)
    service = PythonWorkerService(options(["-m", "worker"], FileName=str(old), max_restarts=0))
    with pytest.raises(WorkerStartException) as caught:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert ("needs Python 3.11 or newer" in caught.value.Message) is is_old


def test_what_was_started_is_named(fake: Make) -> None:
    """A start that fails says with which command, and where."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--traceback", max_restarts=0)
    with pytest.raises(WorkerStartException) as caught:
        wait(service.StartAsync())
    assert f"started was '{sys.executable}' {FAKE} --traceback in '{REPOSITORY}'" in caught.value.Message


def test_a_traceback_at_the_start_reaches_the_caller(fake: Make) -> None:
    """A worker that ends before it answers: exit code and traceback are in the exception."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--traceback", max_restarts=0)
    with pytest.raises(WorkerStartException, match="exit code 1") as caught:
        ask(service, "fake.echo")
    error = caught.value
    assert "RuntimeError: the fake worker was told to fail" in list(error.StderrTail)[-1]
    assert "RuntimeError: the fake worker was told to fail" in error.Message
    assert (error.Code, error.ExitCode, error.Executed.ToString(), error.Retryable) == (
        "worker_start_failed",
        1,
        "No",
        True,
    )
    assert gone(error.ProcessId)


def test_a_worker_that_never_answers_is_killed(fake: Make) -> None:
    """The start has its time; then the process is gone."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--mute", StartTimeout=milliseconds(300), max_restarts=0)
    with pytest.raises(WorkerStartException, match="did not answer within 0.3 s") as caught:
        wait(service.StartAsync())
    assert gone(caught.value.ProcessId)


def test_a_slow_start_is_waited_for(fake: Make, tmp_path: Path) -> None:
    """Calls made while the worker starts are answered when it has."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = fake("--gate", str(gate))
    tasks = [call(service, "fake.echo", value=number) for number in range(10)]
    assert service.Snapshot.State.ToString() == "Starting"
    assert not any(task.IsCompleted for task in tasks)
    gate.open("w").close()
    assert [answer(task)["value"] for task in tasks] == list(range(10))


def test_disposal_while_the_worker_starts(fake: Make, tmp_path: Path) -> None:
    """Whoever waits for the worker learns that it will not come, and its process is gone."""
    import System

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = fake("--gate", str(gate))
    task = call(service, "fake.echo")
    until(lambda: starting(gate))
    [process] = starting(gate)
    wait(service.DisposeAsync())
    with pytest.raises(System.ObjectDisposedException):
        wait(task)
    assert gone(process.pid)


def starting(gate: Path) -> list[psutil.Process]:
    """Return the workers that wait at a gate."""
    children = psutil.Process().children()
    return [one for one in children if one.status() != psutil.STATUS_ZOMBIE and str(gate) in one.cmdline()]


def test_the_breaker_opens_and_closes(fake: Make, tmp_path: Path) -> None:
    """Too many failures: calls fail at once; after the break the next call starts a worker."""
    from MemoryWorker.Client import WorkerStartException

    flag = tmp_path / "works"
    service = fake("--only-if", str(flag), max_restarts=2, break_ms=5000)
    failed = Watched(service, "WorkerStartFailed")
    with pytest.raises(WorkerStartException, match="exit code 7"):
        ask(service, "fake.echo")
    for _ in range(3):
        failed.next()
    with pytest.raises(WorkerStartException, match="failed too often") as caught:
        ask(service, "fake.echo")
    assert service.Snapshot.State.ToString() == "BreakerOpen"
    assert caught.value.RetryAt is not None
    flag.touch()
    assert ask_until(service, WorkerStartException)["value"] == 1
    assert service.Snapshot.State.ToString() == "Running"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (None, "could not be started"),
        (
            "echo '/usr/bin/python3: No module named memory_worker' >&2; exit 1",
            "has no memory-worker, or not all",
        ),
        (
            "echo \"ModuleNotFoundError: No module named 'orjson'\" >&2; exit 1",
            "has no memory-worker, or not all",
        ),
        (
            "echo 'memory-worker: error: it needs Python 3.11 or newer' >&2; exit 2",
            "needs Python 3.11 or newer, and",
        ),
    ],
)
def test_a_start_without_an_environment_names_one(
    fake: Make, tmp_path: Path, program: str | None, said: str
) -> None:
    """A start that was not prepared fails with the remedy: an environment, or what to install where."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    file = tmp_path / "python3"
    if program is not None:
        script(file, program)
    service = PythonWorkerService(options(["-m", "memory_worker"], FileName=str(file), max_restarts=0))
    with pytest.raises(WorkerStartException) as caught:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert said in caught.value.Message
    assert f"'{file}'" in caught.value.Message
    assert "or set PythonWorkerOptions.Python to new PythonEnvironmentOptions()" in caught.value.Message
    assert ("pip install memory-worker" in caught.value.Message) is (said.startswith("has no"))
