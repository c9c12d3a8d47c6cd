"""A backend's process is probed: what it has, what is wrong with it, and what of its output is no answer."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from protocol.vocabulary import DeviceState, Executed
from tests.unit.isolation import MIB, ask, content_of, fill, isolated, never
from worker.backends.isolation import launching
from worker.core.errors import DeviceUnavailableError

pytestmark = pytest.mark.usefixtures("rigs")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lacks_a_module", "torch_directml_that_is_nowhere is not installed in {python}: install it"),
        (
            "lacks_a_library",
            "the probe with {python} failed: OSError: libd3d12-that-is-nowhere.so: cannot open",
        ),
        ("has_a_broken_module", "the probe with {python} failed: ImportError: undefined symbol: _ZN3c10"),
        ("Raises", "the probe with {python} failed: RuntimeError: Unknown error -2147467259"),
        (
            "Segfaults",
            "the probe with {python} did not survive: process {pid} died of SIGSEGV (segmentation fault",
        ),
        ("Exits", "process {pid} ended with exit code 5; its last words: cannot go on"),
        ("FindsNothing", "{python} finds no such device"),
        ("SaysNo", "too old a driver"),
        ("not_there", "AttributeError: module 'misbehaving_backends' has no attribute 'not_there'"),
    ],
)
def test_probes_that_fail(name: str, said: str) -> None:
    """However a probe fails, the device is listed with the cause in words, and whoever asks it is told that."""
    remedies = {"torch_directml_that_is_nowhere": "install it"}
    others = set(psutil.Process().children())
    with isolated(f"misbehaving_backends:{name}", remedies=remedies) as backend:
        (info,) = backend.probe()
        assert info.state is DeviceState.UNAVAILABLE
        assert info.state_reason is not None
        before, pid, after = said.replace("{python}", sys.executable).partition("{pid}")
        assert before in info.state_reason and after in info.state_reason.partition(before)[2 if pid else 0]
        with pytest.raises(DeviceUnavailableError, match="unavailable") as caught:
            backend.allocate("a", ask(1), never())
        assert caught.value.executed is Executed.NO
        assert backend.live() == frozenset()
        assert not set(psutil.Process().children()) - others


def test_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that does not end is ended, with the process."""
    monkeypatch.setattr(launching, "PROBE_PATIENCE_S", 0.5)
    with isolated("misbehaving_backends:Hangs") as backend:
        (info,) = backend.probe()
        assert info.state is DeviceState.UNAVAILABLE
        assert "did not answer 'start' within 0.5 s and was killed" in (info.state_reason or "")


def test_no_such_interpreter() -> None:
    """A path that is wrong is named."""
    with isolated(python="/nowhere/python") as backend:
        (info,) = backend.probe()
        assert (
            info.state_reason
            == "no process can be started with /nowhere/python: there is no such file: correct its path, or put it there"
        )


def test_probing_is_shown_and_told_of() -> None:
    """Until it is known, a device is probing; then whoever listens is told."""
    told = []
    with isolated() as backend:
        assert [each.state for each in backend.devices] == [DeviceState.PROBING]
        backend.begin(told.append)
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        with backend._presence.telling:
            assert told == [backend.devices]


def test_an_interpreter_without_our_dependencies(tmp_path: Path) -> None:
    """The process runs under a bare interpreter, and gets only what is pure Python from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    for module in ("pydantic", "orjson", "psutil", "annotated_types"):
        assert subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode
    with isolated(python=str(python)) as backend:
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        assert fill(backend, "b", 3 * MIB, 2) == content_of(backend, "b", 3 * MIB)
        assert str(python) in backend.notes()[0]


def test_what_it_prints_is_not_taken_for_answers(capfd: pytest.CaptureFixture[str]) -> None:
    """Prints go to stderr, in Python and in C."""
    with isolated("misbehaving_backends:Prints") as backend:
        assert backend.probe()[0].state is DeviceState.AVAILABLE
        backend.readings("sim:0")
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello from a library\n" in err and "hello from C\n" in err
