"""A consumer's own tests, on the packages' assemblies and in the xUnit project."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import REPOSITORY
from tests.rigs.dotnet import runtime
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.pack import LIBRARIES
from tests.rigs.dotnet.toolchain import Toolchain

HERE = Path(__file__).resolve().parent


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
