"""The packages: what is in them, that they are the same each time, and what a newcomer has of them."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.rigs.dotnet import runtime
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.pack import FRAMEWORK, LIBRARIES, NUSPEC, make_wheel, pack
from tests.rigs.dotnet.project import load as load_project
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.pages import snippets

REPOSITORY = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
NAMES = [file.stem for file in LIBRARIES]
VERSION = "0.1.0"


@pytest.fixture(scope="module")
def dist(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the packages; they are built twice, in other folders, in ``again``."""
    pytest.importorskip("setuptools", reason="building a wheel takes setuptools")
    folder = tmp_path_factory.mktemp("dist")
    wheel = make_wheel(folder)
    pack(LIBRARIES, folder, tmp_path_factory.mktemp("work"), toolchain, wheel)
    pack(
        LIBRARIES, folder / "again", tmp_path_factory.mktemp("work"), toolchain, make_wheel(folder / "again")
    )
    return folder


@pytest.fixture(scope="module")
def unpacked(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the assemblies out of the packages."""
    folder = tmp_path_factory.mktemp("packages")
    for name in NAMES:
        with zipfile.ZipFile(dist / f"{name}.{VERSION}.nupkg") as archive:
            for inside in archive.namelist():
                if inside.startswith("lib/"):
                    (folder / Path(inside).name).write_bytes(archive.read(inside))
    return folder


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(file: Path, name: str) -> dict[str, str | None]:
    root = ET.fromstring(contents(file)[f"{name}.nuspec"])  # noqa: S314  this test's own
    about = root.find(f"{{{NUSPEC}}}metadata")
    assert about is not None
    return {one.tag.partition("}")[2]: one.text for one in about}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_a_package(dist: Path, name: str) -> None:
    """Library, documentation, readme and icon; symbols beside it; no test, sample, source or path of this machine."""
    inside = contents(dist / f"{name}.{VERSION}.nupkg")
    own = {one for one in inside if not one.startswith(("_rels/", "package/", "[Content_Types]"))}
    library = {f"lib/{FRAMEWORK}/{name}.dll", f"lib/{FRAMEWORK}/{name}.xml"}
    assert own == {f"{name}.nuspec", "README.md", "icon.png", *library}
    assert inside["icon.png"].startswith(b"\x89PNG")
    symbols = contents(dist / f"{name}.{VERSION}.snupkg")
    assert symbols[f"lib/{FRAMEWORK}/{name}.pdb"].startswith(b"BSJB"), "a portable pdb"
    for data in (*inside.values(), *symbols.values()):
        assert str(REPOSITORY).encode() not in data
    documented = ET.fromstring(inside[f"lib/{FRAMEWORK}/{name}.xml"])  # noqa: S314  this test's own
    assert len(documented.findall("members/member")) > 10


@pytest.mark.parametrize("name", NAMES)
def test_what_a_package_says_of_itself(dist: Path, name: str) -> None:
    """Id, version, licence, readme, icon, addresses and tags are there, and the others it needs."""
    about = metadata(dist / f"{name}.{VERSION}.nupkg", name)
    assert {key: about[key] for key in ("id", "version", "license", "readme", "icon")} == {
        "id": name,
        "version": VERSION,
        "license": "MIT",
        "readme": "README.md",
        "icon": "icon.png",
    }
    assert about["projectUrl"] == "https://memory-worker.example"
    assert about["authors"]
    assert len(about["description"] or "") > 40
    assert "memory" in (about["tags"] or "").split()
    text = contents(dist / f"{name}.{VERSION}.nupkg")[f"{name}.nuspec"].decode()
    assert 'type="git" url="https://memory-worker.example"' in text
    assert ('id="MemoryWorker.Client" version="0.1.0"' in text) is (name != "MemoryWorker.Client")
    assert ("Microsoft.Extensions" in text) is (name == "MemoryWorker.Hosting")
    assert metadata(dist / f"{name}.{VERSION}.snupkg", name)["id"] == name


def test_the_same_sources_make_the_same_bytes(dist: Path) -> None:
    """The wheel and every package, built again in other folders."""
    made = sorted(file.name for file in dist.iterdir() if file.is_file())
    assert len(made) == 1 + 2 * len(NAMES)
    for name in made:
        assert (dist / name).read_bytes() == (dist / "again" / name).read_bytes(), name


def test_one_version_for_all(dist: Path) -> None:
    """The Python package and the .NET packages are released together."""
    assert (dist / f"memory_worker-{VERSION}-py3-none-any.whl").exists()
    props = (REPOSITORY / "csharp_host" / "Directory.Build.props").read_text()
    assert f"<Version>{VERSION}</Version>" in props


def test_what_is_a_package() -> None:
    """The three libraries, each for net8.0 and net10.0; samples, benchmarks and tests are none."""
    found = {file: load_project(file) for file in sorted((REPOSITORY / "csharp_host").rglob("*.csproj"))}
    assert [file.stem for file, one in found.items() if one.is_on("IsPackable")] == NAMES
    for file in LIBRARIES:
        assert found[file].get("TargetFrameworks") == "net8.0;net10.0"
        assert found[file].is_on("IsAotCompatible") is (file.stem != "MemoryWorker.Hosting")


def test_the_assemblies_load(dist: Path, unpacked: Path, load: Any) -> None:
    """Each loads with all of its types; the client's has the wheel, byte for byte, under its own name."""
    load(
        *(str(file.relative_to(REPOSITORY)) for file in LIBRARIES)
    )  # first: names mean these in all other tests
    from System.IO import MemoryStream
    from System.Runtime.Loader import AssemblyLoadContext

    context = AssemblyLoadContext("packages", True)
    made = {name: context.LoadFromAssemblyPath(str(unpacked / f"{name}.dll")) for name in NAMES}
    for name, assembly in made.items():
        assert assembly.GetExportedTypes().Length >= 3, name
    wheel = next(dist.glob("*.whl"))
    resource = made["MemoryWorker.Client"].GetManifestResourceStream(f"wheel/{wheel.name}")
    stream = MemoryStream()
    resource.CopyTo(stream)
    assert bytes(stream.ToArray()) == wheel.read_bytes()


# ---- a newcomer's first program --------------------------------------------------------------------


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


def python_3_10(folder: Path) -> str:
    """Return a Python 3.10; where there is none, a program that says that it is one."""
    places = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10*/bin/python3.10")]
    for place in filter(None, places):
        asked = subprocess.run([str(place), "--version"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith("Python 3.10"):
            return str(place)
    return str(script(folder / "python3.10", 'echo "memory-worker-python:3.10.13 $0"'))


STANDS_FOR_ONE = '[ "$2" = venv ] && exit 9; echo "memory-worker-python:3.12.1 $0"'
"""What a program does that is taken for an interpreter, and can make no environment."""


def script(path: Path, body: str) -> Path:
    """Write a program that stands for another."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


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


# ---- a consumer's own tests ------------------------------------------------------------------------


def run_tests(
    toolchain: Toolchain, sources: Path, folder: Path, references: list[Path], load: Any
) -> list[str]:
    """Compile test classes against assemblies and run them; return a line for each test."""
    load(str(LIBRARIES[2].relative_to(REPOSITORY)))
    name = sources.name
    project = folder / name / f"{name}.csproj"
    shutil.copytree(
        sources, project.parent, ignore=shutil.ignore_patterns("*.csproj", "*.props", "bin", "obj")
    )
    shutil.copytree(REPOSITORY / "tests/rigs/dotnet/xunit", project.parent / "xunit")
    listed = "".join(f'<Reference Include="{one.stem}" HintPath="{one}" />' for one in references)
    project.write_text(
        '<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup><TargetFramework>net8.0</TargetFramework><Nullable>enable</Nullable>'
        "<ImplicitUsings>enable</ImplicitUsings><TreatWarningsAsErrors>true</TreatWarningsAsErrors></PropertyGroup>"
        f'<ItemGroup>{listed}<Using Include="Xunit" /></ItemGroup></Project>'
    )
    (built,) = build([project], folder / "out", toolchain)
    from System.Reflection import Assembly

    assembly = Assembly.LoadFrom(str(built))
    runner = assembly.GetType("Xunit.Runner").GetMethod("RunAsync")
    from System import Array, Object

    lines = runtime.wait(runner.Invoke(None, Array[Object]([assembly])), 90)
    return [str(line) for line in lines]


def test_a_consumers_tests(toolchain: Toolchain, unpacked: Path, tmp_path: Path, load: Any) -> None:
    """Code of a user of the packages is tested without a device: an out-of-memory and a transfer are faked."""
    references = [unpacked / "MemoryWorker.Client.dll", unpacked / "MemoryWorker.Testing.dll"]
    lines = run_tests(toolchain, HERE / "Consumer", tmp_path, references, load)
    assert len(lines) == 4
    assert all(line.startswith("passed ") for line in lines), lines


def test_the_xunit_project(
    toolchain: Toolchain, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its classes hold where there is no NuGet, too: compiled with as much of xunit as they use, and run."""
    from tests.rigs.dotnet.fixtures import default_out

    load(str(LIBRARIES[2].relative_to(REPOSITORY)))
    from System import Environment

    Environment.SetEnvironmentVariable("MEMORY_WORKER_PYTHON", sys.executable)
    references = [default_out() / "MemoryWorker.Client.dll", default_out() / "MemoryWorker.Testing.dll"]
    lines = run_tests(
        toolchain, REPOSITORY / "csharp_host/tests/MemoryWorker.Tests", tmp_path, references, load
    )
    assert len(lines) == 10
    assert all(line.startswith("passed ") for line in lines), lines
