"""Actions in a host's own types: written and read by their JsonTypeInfo, and otherwise calls like any other."""

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.plugins.text_embedding import make_model
from tests.e2e.csharp.host import REPOSITORY, Make, fake, milliseconds, progress_into, sent, until, wait
from tests.e2e.csharp.page_program import run_page
from tests.rigs.dotnet.toolchain import Toolchain

__all__ = ["fake"]


def test_what_the_page_shows_runs_against_the_plugin(toolchain: Toolchain, tmp_path: Path) -> None:
    """The C# in docs/plugins.md, as it stands, asks the example plugin of a real worker."""
    make_model(tmp_path / "host" / "models")
    shutil.copytree(REPOSITORY / "examples", tmp_path / "host" / "examples")
    done = run_page("plugins.md", "Embeds", toolchain, tmp_path, str(tmp_path / "host"))
    assert (done.returncode, done.stdout) == (0, "2 vectors of 64\n"), done.stderr


def ask_typed(service: Any, action: str, answers: Any = None, token: Any = None, **how: Any) -> Any:
    """Start ``CallAsync<Dictionary<string, int>, …>`` with ``{"reports": 7}`` and return its task."""
    from MemoryWorker.Client import PythonWorkerServiceExtensions, WorkerCallOptions
    from System import Int32, String
    from System.Collections.Generic import Dictionary
    from System.Threading import CancellationToken

    value = Dictionary[String, Int32]()
    value["reports"] = 7
    options = WorkerCallOptions()
    for name, one in how.items():
        setattr(options, name, one)
    answers = answers or answer_type()
    return PythonWorkerServiceExtensions.CallAsync[Dictionary[String, Int32], answers](
        service,
        action,
        value,
        type_info(Dictionary[String, Int32]),
        type_info(answers),
        options,
        token or getattr(CancellationToken, "None"),
    )


def type_info(kind: Any) -> Any:
    import clr
    from System.Text.Json import JsonSerializerOptions

    return JsonSerializerOptions.Default.GetTypeInfo(clr.GetClrType(kind))


def answer_type() -> Any:
    from System import String
    from System.Collections.Generic import Dictionary
    from System.Text.Json import JsonElement

    return Dictionary[String, JsonElement]


def test_progress_comes_before_the_answer(fake: Make) -> None:
    """What the action reports is told in order; the answer is read into the type that was asked for."""
    from MemoryWorker.Client.Protocol import ProgressData

    seen: list[Any] = []
    answer = wait(ask_typed(fake(), "fake.progress", Progress=progress_into(ProgressData, seen)))
    assert (answer.Count, [one.CompletedBytes for one in seen]) == (0, [1, 2, 3, 4, 5, 6, 7])


def test_deadline_and_cancellation(fake: Make) -> None:
    """The time runs out, or the token is cancelled: the call ends so, and its slot is free."""
    import System
    from MemoryWorker.Client import WorkerTimeoutException
    from System.Threading import CancellationTokenSource

    service = fake()
    with pytest.raises(WorkerTimeoutException):
        wait(ask_typed(service, "fake.hang", Timeout=milliseconds(50)))
    cancelling = CancellationTokenSource()
    task = ask_typed(service, "fake.hang", token=cancelling.Token)
    cancelling.Cancel()
    with pytest.raises(System.OperationCanceledException) as caught:
        wait(task)
    assert caught.value.CancellationToken.Equals(cancelling.Token)
    until(lambda: service.Snapshot.InFlight == 0)


def test_an_answer_of_another_shape(fake: Make) -> None:
    """It is named, the action was carried out, and the worker goes on."""
    from MemoryWorker.Client import WorkerProtocolException
    from System import String
    from System.Collections.Generic import List

    service = fake()
    with pytest.raises(WorkerProtocolException, match=r"fake\.echo: the answer could not be read") as caught:
        wait(ask_typed(service, "fake.echo", List[String]))
    assert caught.value.Executed.ToString() == "Yes"
    assert wait(ask_typed(service, "fake.echo"))["reports"].GetInt32() == 7
    assert service.Snapshot.Exits == 0


def test_what_is_no_object_is_not_sent(fake: Make) -> None:
    """``data`` is an object: anything else fails before there is a request."""
    import System
    from MemoryWorker.Client import PythonWorkerServiceExtensions
    from System import String

    service, text = fake(), type_info(String)
    with pytest.raises(System.ArgumentException, match="data is a JSON object, and this is String"):
        PythonWorkerServiceExtensions.CallAsync[String, String](service, "fake.echo", "hm", text, text)
    assert service.Snapshot.Starts == 0


@pytest.mark.parametrize(("is_read", "times"), [(True, 2), (False, 1)])
def test_only_a_read_is_asked_again(fake: Make, tmp_path: Path, is_read: bool, times: int) -> None:
    """Its worker dies with it in flight: the next one is asked, once; without ``IsRead`` the caller decides."""
    from MemoryWorker.Client import WorkerExitedException

    journal = tmp_path / "journal"
    service = fake("--journal", str(journal))
    task = ask_typed(service, "fake.hang", IsRead=is_read)
    for count in range(1, times + 1):
        until(lambda count=count: journal.exists() and sent(journal, "fake.hang") == count)
        psutil.Process(service.Snapshot.ProcessId).kill()
    with pytest.raises(WorkerExitedException) as caught:
        wait(task)
    assert caught.value.Executed.ToString() == ("No" if is_read else "Unknown")
    assert sent(journal, "fake.hang") == times
