"""How a process is ended with what it started."""

import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import CLIENT, gone, strings
from tests.rigs.dotnet.fixtures import Load

Kill = Callable[[Any], None]

PARENT = """
import subprocess, sys
waits = [sys.executable, "-c", "import threading; threading.Event().wait()"]
child = subprocess.Popen([sys.executable, "-c", f"import subprocess; print(subprocess.Popen({waits}).pid, flush=True); input()"])
print(child.pid, flush=True)
input()
"""
"""Says the ids of its grandchild and its child, and lives until its input ends."""


@pytest.fixture
def kill(load: Load) -> Kill:
    """Return what kills a ``System.Diagnostics.Process``: it is no part of what the assembly promises."""
    load(CLIENT)
    from MemoryWorker.Client import PythonWorkerOptions
    from System import Array, Object

    tree = Object.GetType(PythonWorkerOptions()).Assembly.GetType("MemoryWorker.Client.Processes.ProcessTree")
    return lambda process: tree.GetMethod("Kill").Invoke(None, Array[Object]([process]))


def started(script: str) -> Any:
    """Return a process of .NET's that runs a script."""
    from System.Diagnostics import Process, ProcessStartInfo

    how = ProcessStartInfo(sys.executable, strings(["-c", script]))
    how.RedirectStandardInput = how.RedirectStandardOutput = True
    return Process.Start(how)


def test_all_generations_go(kill: Kill) -> None:
    """A child of the child goes, too, and one that was stopped: it could not end by any other signal."""
    process = started(PARENT)
    below = {int(process.StandardOutput.ReadLine()) for _ in range(2)}
    psutil.Process(min(below)).suspend()
    kill(process)
    process.WaitForExit()
    assert all(gone(pid) for pid in (process.Id, *below))
    process.Dispose()


def test_what_has_ended_is_no_error(kill: Kill) -> None:
    """Whoever kills it can't know that it ended by itself."""
    process = started("")
    process.WaitForExit()
    kill(process)
    assert process.ExitCode == 0
    process.Dispose()


def test_what_was_never_started_is_no_error(kill: Kill) -> None:
    """Where the start failed there is nothing to end."""
    from System.Diagnostics import Process

    kill(Process())
