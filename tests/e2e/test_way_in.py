"""How a worker is started: whatever else is called worker, protocol or orjson, and whichever Python it is."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import ENTRY, ROOT, line

PING = line("worker.ping", request_id="1")
IN_THE_WAY = "import sys; sys.exit('this is not ours: ' + __file__)\n"
MODULES = ("memory_worker", "worker")


def run(
    *words: str, folder: Path, sent: bytes = PING, python: str = sys.executable, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """Start something in a folder, with this project on PYTHONPATH alone."""
    paths = os.pathsep.join(
        each for each in (environment.pop("PYTHONPATH", ""), str(ENTRY), str(ROOT)) if each
    )
    return subprocess.run(
        [python, *words], input=sent, capture_output=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip


def answers(done: "subprocess.CompletedProcess[bytes]") -> list[Any]:
    """Return what a worker answered, which is all that it wrote, and that it ended well."""
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(each) for each in done.stdout.splitlines()]


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return a folder, such as a host's, with other things of all these names."""
    for name in ("worker", "protocol", "orjson", "psutil", "yaml", "typing"):
        (tmp_path / f"{name}.py").write_text(IN_THE_WAY)
    return tmp_path


def test_other_packages_of_these_names(crowded: Path) -> None:
    """memory_worker is nobody else's name, and what it imports is its own, or installed."""
    (pong,) = answers(run("-m", "memory_worker", folder=crowded))
    assert pong["success"]


def test_another_worker_is_run_by_its_own_name(crowded: Path) -> None:
    """``python -m worker`` is the host's, where the host has one: nothing that is in this project can help that."""
    done = run("-m", "worker", folder=crowded)
    assert done.returncode == 1
    assert b"this is not ours" in done.stderr


def test_another_protocol_only(crowded: Path) -> None:
    """``python -m worker`` has its own protocol, too, where only that name is another's."""
    for name in ("worker", "typing"):  # the latter is imported before anything of ours can prevent it
        (crowded / f"{name}.py").unlink()
    (pong,) = answers(run("-m", "worker", folder=crowded))
    assert pong["success"]


@pytest.mark.parametrize("module", MODULES)
def test_a_protocol_that_is_imported_already(tmp_path: Path, module: str) -> None:
    """What an interpreter imports at its start can't be undone: the error says what, where, and what to do."""
    other = tmp_path / "protocol"
    other.mkdir()
    (other / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text("import protocol\n")
    done = run("-m", module, folder=ROOT, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, b"")
    message = done.stderr.decode()
    assert message.startswith("memory-worker: error: another 'protocol'")
    assert str(other / "__init__.py") in message
    assert "Rename" in message


OLD = """
import runpy, sys
sys.version_info, sys.version = (3, 9, 18, "final", 0), "3.9.18 (main)"
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", MODULES)
def test_an_old_python(tmp_path: Path, module: str) -> None:
    """A Python that is too old is told which one is needed, and that this is another, before anything else."""
    done = run("-c", OLD, module, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("memory-worker: error: it needs Python 3.11 or newer")
    assert "3.9.18" in done.stderr.decode()


@pytest.mark.parametrize(
    "path",
    [
        "worker/entry/memory_worker/__init__.py",
        "worker/entry/memory_worker/__main__.py",
        "worker/entry/memory_worker/own_packages.py",
        "worker/__init__.py",
        "worker/__main__.py",
    ],
)
def test_an_old_python_understands_what_tells_it(path: str) -> None:
    """What is read before the version is looked at has nothing in it that Python 3.6 does not know."""
    ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_operators_own_module(crowded: Path) -> None:
    """A plugin may lie in the current folder; a file of a library's name there still is not the library."""
    (crowded / "greeting.py").write_text(
        "def register(host): host.add_action('hello.world', lambda data, call: {})\n"
    )
    sent = line("hello.world", request_id="1")
    (reply,) = answers(run("-m", "memory_worker", "--plugin", "greeting", folder=crowded, sent=sent))
    assert reply["success"]


CHATTY = """
import importlib, os, sys
print("a banner")
sys.stdout.flush()
os.write(1, b"a banner from C\\n")
sys.path.remove(os.path.dirname(__file__))
del sys.modules[__name__]
sys.modules[__name__] = importlib.import_module(__name__)
"""
TRACE = """\
{"models": {"a": {"size_bytes": 600, "load_ms": 10}, "b": {"size_bytes": 500, "load_ms": 20}}, "capacity_bytes": 1000}
{"use": "a"}
{"use": "b"}
{"use": "a"}
{"use": "b"}
"""


@pytest.mark.parametrize(
    ("words", "library"),
    [
        (("simulate", "trace.jsonl", "--json"), "highspy"),
        (("doctor", "--json"), "psutil"),
        (("doctor",), "orjson"),
    ],
)
def test_what_is_printed_is_all_that_is_printed(tmp_path: Path, words: tuple[str, ...], library: str) -> None:
    """A library that greets whoever imports it does so on stderr: what a machine reads begins with the answer."""
    chatty = tmp_path / "chatty"
    chatty.mkdir()
    (chatty / f"{library}.py").write_text(CHATTY)
    (tmp_path / "trace.jsonl").write_text(TRACE)
    done = run("-m", "memory_worker", *words, folder=tmp_path, PYTHONPATH=str(chatty))
    assert done.returncode == 0, done.stderr.decode()
    assert b"a banner\n" in done.stderr
    assert b"a banner from C" in done.stderr
    assert b"banner" not in done.stdout
    if "--json" in words:
        (only,) = done.stdout.splitlines()
        assert json.loads(only)


def test_doctor_for_machines(tmp_path: Path) -> None:
    """``doctor --json`` says what get_status says, and each device's notes."""
    done = run("-m", "memory_worker", "doctor", "--json", folder=tmp_path)
    found = json.loads(done.stdout)
    (cpu,) = [each for each in found["devices"] if each["device_id"] == "cpu"]
    assert cpu["total_bytes"] > 0
    assert any("reuse" in note for note in cpu["notes"])
    assert found["python"]["executable"]
    assert set(found["absent"]) <= {"cuda", "directml", "xpu"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "command", ["doctor", "--help", "--version", "report --help", "top --record RUN", "mcp"]
)
def test_an_output_that_takes_nothing(tmp_path: Path, command: str) -> None:
    """What could not be printed is no success, and one line says so."""
    record = tmp_path / "run.jsonl"
    run("-m", "memory_worker", "--record", str(record), folder=tmp_path)
    asked = {"method": "initialize", "id": 1, "jsonrpc": "2.0", "params": {"protocolVersion": "2024-11-05",
             "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}}  # fmt: skip
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "memory_worker", *command.replace("RUN", str(record)).split()],
            input=json.dumps(asked).encode() + b"\n",
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"not all of it could be written to stdout: No space left on device\n"
