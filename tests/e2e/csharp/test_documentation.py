"""The C# that the pages show is compiled as it stands, warnings being errors; what is a whole program of a host is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.csharp.host import REPOSITORY
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.pages import Snippet, snippets

PROJECT = """<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType><TargetFramework>net8.0</TargetFramework><LangVersion>12</LangVersion>
    <Nullable>enable</Nullable><ImplicitUsings>enable</ImplicitUsings><TreatWarningsAsErrors>true</TreatWarningsAsErrors>
  </PropertyGroup>
  <ItemGroup>
    <ProjectReference Include="{host}/src/MemoryWorker.Hosting/MemoryWorker.Hosting.csproj" />
    <ProjectReference Include="{host}/src/MemoryWorker.Testing/MemoryWorker.Testing.csproj" />
    <PackageReference Include="Microsoft.Extensions.Hosting" Version="8.0.1" />
  </ItemGroup>
</Project>"""
USINGS = """global using MemoryWorker.Client;
global using MemoryWorker.Client.Protocol;
global using MemoryWorker.Hosting;
global using Microsoft.Extensions.DependencyInjection;
global using Microsoft.Extensions.Hosting;
"""
GIVEN = {
    "stores.": """await using var worker = new PythonWorkerService(new PythonWorkerOptions());
var stores = new MemoryStores(worker);
var (user, project, question) = ("ada", "notes", "why?");
static Task<Answer> AskAsync(string question, CancellationToken token) => Task.FromResult(new Answer(question));
""",
    "builder.": "var builder = Host.CreateApplicationBuilder();\n",
    "changed)": 'var changed = new PressureChangedData { DeviceId = "cpu", From = PressureCategory.Low, '
    "To = PressureCategory.High, PressurePercentage = 91, AvailableBytes = 0 };\n",
}
"""What a page says is there before, by what is used of it. A new block that uses something else gets its row here."""
TYPES = {
    "MyJson": """internal sealed record Answer(string Text);
internal static class MyJson
{
    internal static class Default
    {
        internal static System.Text.Json.Serialization.Metadata.JsonTypeInfo<Answer> Answer { get; } =
            (System.Text.Json.Serialization.Metadata.JsonTypeInfo<Answer>)
            System.Text.Json.JsonSerializerOptions.Default.GetTypeInfo(typeof(Answer));
    }
}
""",
    "MyTileCache": """internal sealed class MyTileCache : IMemoryConsumer
{
    public string Id => "tiles";
    public MemoryHolding Describe() => new() { HeldBytes = 0 };
    public ValueTask<long> ReleaseAsync(MemoryReleaseRequest request, CancellationToken cancellationToken) => new(0);
}
""",
    "ImageCache": """internal sealed class ImageCache(IServiceMemory memory)
{
    public IServiceMemory Memory => memory;
}
""",
    "Assert": """internal static class Assert
{
    public static void Equal(string expected, string seen) => ArgumentOutOfRangeException.ThrowIfNotEqual(seen, expected);
}
""",
}
"""Likewise, types of the reader's own."""
SHOWN = tuple(one for one in snippets("csharp") if "JsonSerializerContext" not in one.text)
"""That one needs the SDK's source generator, and has a test of its own."""
RUN = "csharp_host/README.md"
"""Whose first block is a whole host; the others need a network, or are a part of something."""


def name_of(shown: Snippet) -> str:
    return f"Shown{SHOWN.index(shown)}"


@pytest.fixture(scope="module")
def built(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile all of them at once; return where they are."""
    folder = tmp_path_factory.mktemp("shown")
    projects = []
    for shown in SHOWN:
        project = folder / name_of(shown) / f"{name_of(shown)}.csproj"
        project.parent.mkdir()
        project.write_text(PROJECT.format(host=REPOSITORY / "csharp_host"), encoding="utf-8")
        project.with_name("Usings.cs").write_text(USINGS, encoding="utf-8")
        project.with_name("Types.cs").write_text(
            "".join(text for used, text in TYPES.items() if used in shown.text), encoding="utf-8"
        )
        usings, statements = _halves(shown.text)
        given = "".join(text for used, text in GIVEN.items() if used in shown.text)
        project.with_name("Program.cs").write_text(f"{usings}\n{given}{statements}", encoding="utf-8")
        projects.append(project)
    build(projects, default_out(), toolchain)
    return default_out()


def _halves(text: str) -> tuple[str, str]:
    """Take the usings apart, which have to come before what is given."""
    lines = text.splitlines(keepends=True)
    usings = [one for one in lines if one.startswith("using ") and "=" not in one and "(" not in one]
    return "".join(usings), "".join(one for one in lines if one not in usings)


def test_every_page_compiles(built: Path) -> None:
    """Against the libraries as they are."""
    assert all((built / f"{name_of(shown)}.dll").exists() for shown in SHOWN)


def test_the_first_block_of_the_host_runs(built: Path, toolchain: Toolchain) -> None:
    """With the worker's Python on the path it starts one, shares memory with it, and ends."""
    [shown, *_] = [one for one in SHOWN if one.page == RUN]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(toolchain.launcher), str(built / f"{name_of(shown)}.dll")],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY / "worker" / "entry")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
