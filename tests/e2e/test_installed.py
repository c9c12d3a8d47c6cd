"""The project as others have it: installed, and with the lowest versions of what it declares that it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.process import ENTRY, ROOT, line
from tests.rigs.model_files import write_model

PACKAGED = ("worker", "protocol", "pyproject.toml", "README.md", "LICENSE")
PING = line("worker.ping", request_id="1")
BINARIES = "Scripts" if sys.platform == "win32" else "bin"


def run(*command: str, folder: Path, sent: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run a command in a folder; nothing of this project's own folder can be imported by it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, input=sent, capture_output=True, cwd=folder, check=False, env=environment)


def lowest() -> list[str]:
    """Return the lowest version of each dependency that pyproject.toml allows."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert all(re.fullmatch(r"[A-Za-z]+>=[0-9.]+", each) for each in declared)
    return [each.replace(">=", "==") for each in declared]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with those versions and nothing else. Skips where they can't be had."""
    made = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(made / BINARIES / "python"), "install", "--quiet"]
    done = run(*pip, "--only-binary", ":all:", *lowest(), folder=made)
    if done.returncode:
        pytest.skip(f"the lowest versions can't be installed here: {done.stderr.decode()[-300:].strip()}")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what is packaged: building leaves things behind."""
    pytest.importorskip("setuptools", reason="building a wheel takes setuptools")
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGED:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, folder / name)
    return folder


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return a folder that has a worker and a protocol of its own."""
    for name in ("worker", "protocol"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not ours')\n")
    return tmp_path


def test_the_lowest_declared_versions(environment: Path, tmp_path: Path) -> None:
    """With them the whole example conversation is held and a model loaded; warnings are errors, stderr is silent."""
    write_model(tmp_path / "m.safetensors", 64, seed=1)
    (tmp_path / "models.yaml").write_text("models: [{id: m, loader: safetensors, path: m.safetensors}]\n")
    conversation = (ROOT / "examples/conversation.jsonl").read_bytes()
    load = line("memory.load_model", {"model_id": "m", "device_id": "cpu"}, request_id="load")
    (tmp_path / "start.py").write_text(
        f"import sys; sys.path.insert(0, {str(ENTRY)!r}); import memory_worker; memory_worker.main()\n"
    )
    start = [str(environment / BINARIES / "python"), "-W", "error", "start.py", "--models", "models.yaml"]
    done = run(*start, folder=tmp_path, sent=load + conversation)
    assert (done.returncode, done.stderr) == (0, b"")
    replies = [json.loads(each) for each in done.stdout.splitlines()]
    answered = {each["request_id"]: each for each in replies if "success" in each}
    assert answered["load"]["success"]
    wanted = {json.loads(each)["request_id"] for each in conversation.splitlines()}
    assert wanted <= set(answered)
    assert not [each for each in replies if each.get("error", {}).get("code") == "internal_error"]


@pytest.mark.parametrize("kind", ["build_wheel", "build_editable"])
def test_installed(environment: Path, source: Path, crowded: Path, kind: str) -> None:
    """Installed, or installed as it is edited, it is started by its own name or the script, wherever one is."""
    build = f"import sys; from setuptools import build_meta; print(build_meta.{kind}(sys.argv[1]), file=sys.stderr)"
    wheels = source / kind
    wheels.mkdir()
    done = run(sys.executable, "-c", build, str(wheels), folder=source)
    assert done.returncode == 0, done.stderr.decode()
    (wheel,) = wheels.glob("*.whl")
    python = str(environment / BINARIES / "python")
    pip = [sys.executable, "-m", "pip", "--python", python]
    done = run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), folder=crowded)
    assert done.returncode == 0, done.stderr.decode()
    try:
        for command in ([python, "-m", "memory_worker"], [str(environment / BINARIES / "memory-worker")]):
            done = run(*command, folder=crowded, sent=PING)
            assert done.returncode == 0, done.stderr.decode()
            assert json.loads(done.stdout)["success"]
            done = run(*command, "doctor", "--json", folder=crowded)
            assert json.loads(done.stdout)["devices"]
        done = run(python, "-m", "memory_worker", "report", "--help", folder=crowded)
        assert done.returncode == 0
    finally:
        run(*pip, "uninstall", "--quiet", "--yes", "memory-worker", folder=crowded)
