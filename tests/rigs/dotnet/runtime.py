"""One .NET runtime inside the test process, through pythonnet.

Each rule here cost somebody a crash or a hang:

1. Start in a fixture, never at import: faulthandler must hold SIGSEGV first, or a C#
   NullReferenceException kills the process.
2. A process has one runtime for good. It is the one with ASP.NET Core, which runs everything.
3. Wait with ``wait``: ``task.Result`` is a property, so it keeps the GIL, and a C# thread that calls
   back into Python blocks for ever.
4. A timeout cannot interrupt a thread that is stuck with the GIL; only ``watchdog`` can.
"""

import ctypes.util
import faulthandler
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.rigs.dotnet.toolchain import Toolchain, frameworks

WAIT_SECONDS = 30.0
_stderr: list[int] = []
"""The real stderr, whatever pytest captures: a copy of its descriptor, once armed."""
_started: list[Path] = []
"""The root of the runtime in this process, once started."""


def arm() -> None:
    """Keep the real stderr for dumps of the stacks. Call from pytest_configure, while nothing is captured."""
    if not _stderr:
        _stderr.append(os.dup(2))
    if not faulthandler.is_enabled():
        faulthandler.enable(_stderr[0])


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """End the process with all Python stacks if the block takes longer, even with the GIL stuck.

    It uses faulthandler's one timer: pytest's ``faulthandler_timeout`` must stay unset.
    """
    arm()
    faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr[0])
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def start(tools: Toolchain) -> None:
    """Load the runtime, once per process."""
    if _started:
        return
    arm()
    import pythonnet

    os.environ.setdefault("DOTNET_EnableDiagnostics", "0")  # else a debugger's pipes stay in the temp folder
    # .NET aborts at its start where libicu is missing, unless told to do without.
    without_icu = sys.platform == "linux" and ctypes.util.find_library("icuuc") is None
    present = frameworks(tools.aspnet)
    options = {
        "tfm": "net8.0",
        "rollForward": "Major",
        "frameworks": [{"name": name, "version": folder.name} for name, folder in sorted(present.items())],
        "configProperties": {"System.Globalization.Invariant": without_icu},
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runtimeconfig.json"
        config.write_text(json.dumps({"runtimeOptions": options}))
        pythonnet.load("coreclr", runtime_config=str(config), dotnet_root=str(tools.aspnet))
    _started.append(tools.aspnet)


def add(assemblies: Iterable[Path]) -> None:
    """Make assemblies importable: their namespaces become Python modules."""
    import clr

    for assembly in assemblies:
        clr.AddReference(str(assembly))


def wait(awaitable: Any, seconds: float = WAIT_SECONDS) -> Any:
    """Return the result of a Task or ValueTask; what it threw is raised as it is.

    Raises TimeoutError after ``seconds``, with every Python stack on stderr; the task goes on.
    """
    from System import Array, TimeSpan
    from System.Threading.Tasks import Task

    task = awaitable.AsTask() if hasattr(awaitable, "AsTask") else awaitable
    if (
        Task.WaitAny(Array[Task]([task]), TimeSpan.FromSeconds(seconds)) < 0
    ):  # a method, and one that does not throw
        faulthandler.dump_traceback(file=2, all_threads=True)
        message = f"{task.GetType().Name} is not finished after {seconds:g} s (status {task.Status})"
        raise TimeoutError(message)
    result = task.GetAwaiter().GetResult()
    return None if type(result).__name__ == "VoidTaskResult" else result


def iterate(stream: Any, seconds: float = WAIT_SECONDS, cancellation: Any = None) -> Iterator[Any]:
    """Yield the items of an IAsyncEnumerable, each awaited like ``wait``; leaving early disposes it."""
    import System
    from System.Collections.Generic import IAsyncEnumerable, IAsyncEnumerator
    from System.Threading import CancellationToken

    kinds = System.Object.GetType(stream).GetInterfaces()
    of = next(one for one in kinds if one.Name == "IAsyncEnumerable`1").GetGenericArguments()[0]
    token = CancellationToken(False) if cancellation is None else cancellation
    enumerator = IAsyncEnumerator[of](IAsyncEnumerable[of](stream).GetAsyncEnumerator(token))
    try:
        while wait(enumerator.MoveNextAsync(), seconds):
            yield enumerator.Current
    finally:
        wait(System.IAsyncDisposable(enumerator).DisposeAsync(), seconds)
