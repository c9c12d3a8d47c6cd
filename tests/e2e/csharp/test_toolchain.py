"""The rig that stands in for the SDK: what it builds, and what it refuses to guess."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.csharp.conftest import CLIENT
from tests.rigs.dotnet import project as projects
from tests.rigs.dotnet.build import REPOSITORY, BuildError, ProjectError, ToolchainError, build
from tests.rigs.dotnet.fixtures import Load
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.dotnet.toolchain import toolchain as find_toolchain

PROPS = """<Project><PropertyGroup>
  <TargetFramework>net8.0</TargetFramework><Nullable>enable</Nullable><ImplicitUsings>enable</ImplicitUsings>
  <TreatWarningsAsErrors>true</TreatWarningsAsErrors><GenerateDocumentationFile>true</GenerateDocumentationFile>
</PropertyGroup></Project>"""
CODE = "namespace Rig;\n/// <summary>A type.</summary>\npublic static class {0} {{ {1} }}\n"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a project of one file under a Directory.Build.props."""
    (tmp_path / "Directory.Build.props").write_text(PROPS)
    return write_project(tmp_path, "Library", "", CODE.format("Library", "internal static int Two => 2;"))


def write_project(folder: Path, name: str, inside: str, code: str, sdk: str = "Microsoft.NET.Sdk") -> Path:
    """Write a project beside the others and return its file."""
    file = folder / name / f"{name}.csproj"
    file.parent.mkdir()
    file.write_text(f'<Project Sdk="{sdk}">{inside}</Project>')
    file.with_name(f"{name}.cs").write_text(code)
    return file


def test_what_did_not_change_is_not_built_again(toolchain: Toolchain, library: Path, tmp_path: Path) -> None:
    """The assembly stays until a source changes."""
    (built,) = build([library], tmp_path / "out", toolchain)
    before = built.stat().st_mtime_ns
    build([library], tmp_path / "out", toolchain)
    assert built.stat().st_mtime_ns == before
    library.with_name("More.cs").write_text(CODE.format("More", ""))
    build([library], tmp_path / "out", toolchain)
    assert built.stat().st_mtime_ns > before


def test_what_is_built_is_a_release(load: Load, toolchain: Toolchain, library: Path, tmp_path: Path) -> None:
    """Optimized, without DEBUG: what is tested and measured is what is shipped."""
    library.with_name("Flags.cs").write_text(
        CODE.format("Flags", "internal const bool Debug =\n#if DEBUG\ntrue;\n#else\nfalse;\n#endif\n")
    )
    (built,) = build([library], tmp_path / "out", toolchain)
    load(CLIENT)
    from System.Diagnostics import DebuggableAttribute
    from System.Reflection import Assembly, BindingFlags, CustomAttributeExtensions

    made = Assembly.LoadFrom(str(built))
    flag = CustomAttributeExtensions.GetCustomAttribute[DebuggableAttribute](made)
    assert flag is None or not flag.IsJITOptimizerDisabled
    constant = made.GetType("Rig.Flags").GetField("Debug", BindingFlags.NonPublic | BindingFlags.Static)
    assert constant.GetRawConstantValue() is False


@pytest.mark.parametrize("version", ['Version="8.0.1"', None])
def test_versions_are_central(library: Path, tmp_path: Path, version: str | None) -> None:
    """A package has its version in Directory.Packages.props and nowhere else; a restore would refuse it, too."""
    assert library.exists()
    listed = (
        "" if version is None else '<PackageVersion Include="Microsoft.Extensions.Hosting" Version="8.0.1" />'
    )
    (tmp_path / "Directory.Packages.props").write_text(
        "<Project><PropertyGroup><ManagePackageVersionsCentrally>true</ManagePackageVersionsCentrally>"
        f"</PropertyGroup><ItemGroup>{listed}</ItemGroup></Project>"
    )
    inside = (
        f'<ItemGroup><PackageReference Include="Microsoft.Extensions.Hosting" {version or ""} /></ItemGroup>'
    )
    with pytest.raises(ProjectError, match=r"belongs into Directory\.Packages\.props"):
        projects.load(write_project(tmp_path, "Odd", inside, ""))


def test_a_warning_stops_the_build(toolchain: Toolchain, library: Path, tmp_path: Path) -> None:
    """Nullable and documentation warnings are errors, named with file and line, and nothing old is left."""
    build([library], tmp_path / "out", toolchain)
    library.with_name("Library.cs").write_text(
        "namespace Rig;\npublic static class Library { static string S => null; }"
    )
    with pytest.raises(BuildError, match=r"Library\.cs\(2,\d+\): error CS1591") as refused:
        build([library], tmp_path / "out", toolchain)
    assert "CS8603" in str(refused.value)
    assert not (tmp_path / "out" / "Library.dll").exists()


def test_a_web_project_sees_its_references(toolchain: Toolchain, library: Path, tmp_path: Path) -> None:
    """Project references come first, internals can be opened, and ASP.NET Core is there."""
    library.write_text(
        library.read_text().replace(
            "</Project>",
            """<ItemGroup>
      <InternalsVisibleTo Include="Web" /></ItemGroup></Project>""",
        )
    )
    reference = '<ItemGroup><ProjectReference Include="..\\Library\\Library.csproj" /></ItemGroup>'
    code = 'var app = WebApplication.Create(args);\napp.MapGet("/", () => Rig.Library.Two);\n'
    web = write_project(tmp_path, "Web", reference, code, "Microsoft.NET.Sdk.Web")
    assert [one.name for one in build([web], tmp_path / "out", toolchain)] == ["Library.dll", "Web.dll"]
    assert (tmp_path / "out" / "Web.runtimeconfig.json").exists()


@pytest.mark.parametrize(
    "inside",
    [
        "<PropertyGroup Condition=\"Exists('x')\"></PropertyGroup>",
        '<ItemGroup><Compile Remove="x.cs" /></ItemGroup>',
        '<ItemGroup><Strange Include="x" /></ItemGroup>',
        '<Choose Name="x"></Choose>',
    ],
)
def test_what_is_not_understood_stops(library: Path, tmp_path: Path, inside: str) -> None:
    """A project that would be built otherwise by the SDK is not built at all."""
    assert library.exists()
    with pytest.raises(ProjectError, match=r"is not understood without the \.NET SDK"):
        projects.load(write_project(tmp_path, "Odd", inside, ""))


def test_a_package_that_cannot_be_had_is_named(toolchain: Toolchain, library: Path, tmp_path: Path) -> None:
    """There is no NuGet here."""
    if toolchain.sdk:
        pytest.skip("an SDK has NuGet")
    assert library.exists()
    inside = '<ItemGroup><PackageReference Include="Newtonsoft.Json" Version="13.0.3" /></ItemGroup>'
    with pytest.raises(ProjectError, match=r"Newtonsoft\.Json cannot be had without NuGet"):
        build([write_project(tmp_path, "Odd", inside, "")], tmp_path / "out", toolchain)


def test_another_architecture_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason that a skipped test shows names the remedy."""
    monkeypatch.setenv("MEMORY_WORKER_DOTNET", "fetched")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ToolchainError, match=r"riscv64: install the \.NET SDK 10"):
        find_toolchain()


def test_packing_says_what_it_lacks(tmp_path: Path) -> None:
    """With a Python of which only the standard library is there: a sentence with what brings the rest, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tests.rigs.dotnet", "pack", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"to build the worker's package, setuptools 77 or newer is needed, and {sys.executable} has none: "
        f"run '{sys.executable} -m pip install \"setuptools>=77\"'\n"
    )
