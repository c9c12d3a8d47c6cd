"""A newcomer's first program: the packages, an empty folder, and whatever Python the machine has."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.e2e.csharp.interpreters import STANDS_FOR_ONE, python_3_10, script
from tests.e2e.csharp.packed import VERSION
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.pages import snippets
from tests.rigs.small_filesystem import small_filesystem

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def program(toolchain: Toolchain, unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program, which was compiled against the packages' assemblies and has them beside it."""
    out = tmp_path_factory.mktemp("program")
    build([HERE / "FirstAnswer/FirstAnswer.csproj"], out, toolchain, {"PackageFolder": str(unpacked)})
    shutil.copy(unpacked / "MemoryWorker.Client.dll", out)
    return out / "FirstAnswer.dll"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Return an empty folder to start in; what else a test needs lies beside it."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def interpreters(folder: Path, *pythons: str) -> Path:
    """Return a folder that is all of PATH, with ``python3`` in it if one is given."""
    folder.mkdir()
    for python in pythons:
        launcher = folder / "python3"
        launcher.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        launcher.chmod(0o755)
    return folder


def bare_python() -> str:
    """Return the Python that this one's environment was made from: it has none of the worker's packages."""
    return str(getattr(sys, "_base_executable", sys.executable))


def run(
    toolchain: Toolchain,
    program: Path,
    path: Path,
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Run the program with nothing but one folder on its PATH."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(toolchain.launcher), str(program), *arguments],
        cwd=folder,
        env={**own, **environment, "PATH": str(path), "DOTNET_EnableDiagnostics": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.fixture(scope="module")
def wheels(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheels of what the worker needs. Skips where they can't be had."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel = next(dist.glob("*.whl"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"what the worker needs can't be downloaded here: {done.stderr[-300:].strip()}")
    return folder


def test_the_first_answer(
    toolchain: Toolchain, program: Path, wheels: Path, empty: Path, tmp_path: Path
) -> None:
    """From an empty folder, with the packages and a bare Python: an environment is made, and the worker answers.

    The second time it is there, also where another's ``worker`` lies in the folder; started by that name, the one in
    the way is named. How long it takes is printed, not judged.
    """
    path, place = interpreters(tmp_path / "path", bare_python()), str(tmp_path / "environment")
    first = run(toolchain, program, path, empty, place)
    assert (first.returncode, first.stdout.split()[2:4]) == (0, ["1048576", "made=True"])
    steps = first.stderr.splitlines()
    assert steps[0].startswith(f"Making an environment in '{place}' from Python 3.")
    assert f"Installing memory-worker {VERSION} and what it needs" in steps
    (empty / "worker").mkdir()
    (empty / "worker" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    again = run(toolchain, program, path, empty, place)
    assert (again.returncode, again.stdout.split()[2:4]) == (0, ["1048576", "made=False"])
    assert again.stderr == ""
    print("first", first.stdout, "again", again.stdout)  # noqa: T201  with -s: how long it took
    taken = run(toolchain, program, path, empty, place, "-m worker")
    said = f"NameTaken: '{empty}/worker' is in the way of the worker's own package 'worker': start the worker with "
    said += "'-m memory_worker', which looks past it, or set WorkingDirectory to another folder\n"
    assert (taken.returncode, taken.stdout) == (3, said)


def test_the_readmes_first_program(
    toolchain: Toolchain, unpacked: Path, wheels: Path, empty: Path, tmp_path: Path
) -> None:
    """Pasted as it stands: from a bare Python it makes the environment, holds memory, and says where it is."""
    [shown] = [one for one in snippets("csharp") if one.page == "README.md"]
    project = tmp_path / "Pasted" / "Pasted.csproj"
    project.parent.mkdir()
    shutil.copy(HERE / "FirstAnswer" / "FirstAnswer.csproj", project)
    shutil.copy(HERE / "FirstAnswer" / "Directory.Build.props", project.parent)
    project.with_name("Program.cs").write_text(shown.text)
    build([project], tmp_path / "out", toolchain, {"PackageFolder": str(unpacked)})
    shutil.copy(unpacked / "MemoryWorker.Client.dll", tmp_path / "out")
    path = interpreters(tmp_path / "path", bare_python())
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "XDG_DATA_HOME": str(tmp_path / "data")}
    done = run(toolchain, tmp_path / "out" / "Pasted.dll", path, empty, environment=offline)
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert re.fullmatch(r"cpu: \d+ of \d+ bytes", first)
    assert re.fullmatch(r"alloc-1\S* is on cpu, \d+ bytes are left", last)


def test_only_an_old_python(toolchain: Toolchain, program: Path, empty: Path, tmp_path: Path) -> None:
    """It is named with its version, and what to do; nothing is left behind."""
    old = python_3_10(tmp_path)
    done = run(toolchain, program, interpreters(tmp_path / "path", old), empty, str(tmp_path / "environment"))
    assert done.returncode == 3
    assert re.fullmatch(
        r"TooOld: the worker needs Python 3\.11 or newer, and '[^']*python3\.10' is 3\.10\.\d+: install Python 3\.11 or newer "
        r"\(python\.org, the system's packages, or 'uv python install 3\.11'\), or name one with "
        r"PythonEnvironmentOptions\.BasePython\n",
        done.stdout,
    ), done.stdout
    assert not (tmp_path / "environment").exists()


def test_no_python_at_all(toolchain: Toolchain, program: Path, empty: Path, tmp_path: Path) -> None:
    """It is said where one was looked for, and how to get one."""
    done = run(toolchain, program, interpreters(tmp_path / "path"), empty, str(tmp_path / "environment"))
    assert done.returncode == 3
    assert done.stdout.startswith("NotFound: no Python was found (python3, python, ")
    assert "and uv were looked for on PATH): install Python 3.11 or newer" in done.stdout


def test_no_space_for_the_wheel(toolchain: Toolchain, program: Path, empty: Path, tmp_path: Path) -> None:
    """A full folder for temporary files is named, and nothing is left in it."""
    with small_filesystem(tmp_path / "small", 2**16) as small:
        path, place = interpreters(tmp_path / "path", bare_python()), str(tmp_path / "environment")
        done = run(toolchain, program, path, empty, place, environment={"TMPDIR": str(small)})
        assert done.returncode == 3, done.stderr
        assert done.stdout.startswith(f"NotMade: the worker's wheel could not be unpacked into '{small}/' (")
        assert list(small.glob("memory-worker-*")) == []


def test_all_that_were_looked_at_are_named(
    toolchain: Toolchain, program: Path, empty: Path, tmp_path: Path
) -> None:
    """One that is too old, one that fails and one that hangs: each with its reason; shims of what is not there are not."""
    found = interpreters(tmp_path / "path")
    script(found / "python3", 'echo "memory-worker-python:3.10.2 /opt/old/python3"')
    script(found / "python", "echo 'no library' >&2; exit 3")
    script(found / "uv", "exec /bin/sleep 600")
    for name in ("python3.11", "python3.12", "python3.13", "python3.14"):
        script(found / name, "exit 127")
    done = run(toolchain, program, found, empty, str(tmp_path / "environment"), "", "", "500")
    assert done.stdout.startswith(
        "TooOld: the worker needs Python 3.11 or newer, and '/opt/old/python3' is 3.10.2 and 'python' is no Python that "
        "can be started (no library) and 'uv' did not finish within 0.5 s: install Python 3.11"
    ), done.stdout
    assert "'uv' did not finish within 0.5 s" in done.stderr  # while the others were asked


def test_a_late_uv_is_gone_without(toolchain: Toolchain, program: Path, empty: Path, tmp_path: Path) -> None:
    """Where uv hangs, venv and pip are used; the step that fails is another's."""
    found = interpreters(tmp_path / "path")
    script(found / "python3", STANDS_FOR_ONE)
    script(found / "uv", "exec /bin/sleep 600")
    done = run(toolchain, program, found, empty, str(tmp_path / "environment"), "", "", "2000")
    assert "'uv' did not finish within 2 s: venv and pip are used instead" in done.stderr
    assert done.stdout.startswith(
        "NotMade: the worker's environment could not be made (exit code 9): make sure"
    )


def test_offline(toolchain: Toolchain, program: Path, wheels: Path, empty: Path, tmp_path: Path) -> None:
    """With a folder of wheels no index is asked; one that lacks some says so, and can be filled."""
    path, place = interpreters(tmp_path / "path", bare_python()), str(tmp_path / "environment")
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    short = run(toolchain, program, path, empty, place, "", str(lacking))
    assert short.returncode == 3
    assert (
        "NotMade: the worker's environment could not be made (ERROR: No matching distribution found"
        in short.stdout
    )
    assert (
        f"put the wheels of everything that it needs into '{lacking}' ('pip download' fills it)"
        in short.stdout
    )
    done = run(toolchain, program, path, empty, place, "", str(wheels))
    assert done.returncode == 0, done.stdout


def test_two_hosts_that_start_at_once(
    toolchain: Toolchain, program: Path, wheels: Path, empty: Path, tmp_path: Path
) -> None:
    """One makes the environment; the other waits, and finds it made."""
    path, place = interpreters(tmp_path / "path", bare_python()), str(tmp_path / "environment")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run, toolchain, program, path, empty, place, "", str(wheels)) for _ in range(2)]
    made = sorted(one.result().stdout.split()[3] for one in both)
    assert made == ["made=False", "made=True"], [one.result().stdout for one in both]
