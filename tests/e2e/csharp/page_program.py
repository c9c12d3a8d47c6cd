"""A whole program of a page whose JSON types the SDK's source generator writes: built, also where there is no SDK, and run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.csharp.host import REPOSITORY
from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import Toolchain

PROJECT = f"""<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType><TargetFramework>net8.0</TargetFramework><LangVersion>12</LangVersion>
    <Nullable>enable</Nullable><ImplicitUsings>enable</ImplicitUsings><TreatWarningsAsErrors>true</TreatWarningsAsErrors>
  </PropertyGroup>
  <ItemGroup>
    <ProjectReference Include="{REPOSITORY}/csharp_host/src/MemoryWorker.Client/MemoryWorker.Client.csproj" />
  </ItemGroup>
</Project>"""
GENERATED = """#nullable enable
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
internal sealed partial class CONTEXT(JsonSerializerOptions? options) : global::System.Text.Json.Serialization.JsonSerializerContext(options)
{
    private static readonly JsonSerializerOptions Reflected = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        TypeInfoResolver = new DefaultJsonTypeInfoResolver(),
    };
    internal static CONTEXT Default { get; } = new(null);
PROPERTIES
    protected override JsonSerializerOptions? GeneratedSerializerOptions => Reflected;
    public override JsonTypeInfo? GetTypeInfo(Type type) => Reflected.GetTypeInfo(type);
}
"""
"""What the SDK's source generator would write; where there is an SDK, it does."""
PROPERTY = "    internal JsonTypeInfo<TYPE> TYPE => (JsonTypeInfo<TYPE>)GetTypeInfo(typeof(TYPE))!;"


def run_page(
    page: str, name: str, toolchain: Toolchain, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Build the only C# of a page as a program of that name, and run it in a folder, with this Python on the path."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    [program] = re.findall(r"```csharp\n(.*?)```", text, re.DOTALL)
    project = folder / name / f"{name}.csproj"
    project.parent.mkdir()
    project.write_text(PROJECT, encoding="utf-8")
    project.with_name("Program.cs").write_text(program, encoding="utf-8")
    if not toolchain.sdk:
        [context] = re.findall(r"class (\w+) : JsonSerializerContext", program)
        types = re.findall(r"JsonSerializable\(typeof\((\w+)\)\)", program)
        properties = "\n".join(PROPERTY.replace("TYPE", each) for each in types)
        generated = GENERATED.replace("CONTEXT", context).replace("PROPERTIES", properties)
        project.with_name(f"{context}.cs").write_text(generated, encoding="utf-8")
    build([project], default_out(), toolchain)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(toolchain.launcher), str(default_out() / f"{name}.dll"), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
