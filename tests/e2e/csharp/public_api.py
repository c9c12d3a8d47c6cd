"""The public surface of the C# assemblies as text: `python -m tests.e2e.csharp.public_api` writes the snapshot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
SNAPSHOT = REPOSITORY / "csharp_host" / "PublicApi.txt"
PROJECTS = [
    "csharp_host/src/MemoryWorker.Client/MemoryWorker.Client.csproj",
    "csharp_host/src/MemoryWorker.Hosting/MemoryWorker.Hosting.csproj",
    "csharp_host/src/MemoryWorker.Testing/MemoryWorker.Testing.csproj",
]
FROM_RECORD = {"Equals", "GetHashCode", "ToString", "op_Equality", "op_Inequality", "<Clone>$", "Deconstruct"}
"""What the compiler adds to every record."""


def surface(assembly: Any) -> Iterator[str]:
    """Return a line for each public type and for each public member that it declares."""
    for kind in sorted(assembly.GetExportedTypes(), key=lambda one: one.FullName):
        yield f"{described(kind)} {kind.FullName}{bases(kind)}"
        yield from sorted(members(kind))


def described(kind: Any) -> str:
    if kind.IsEnum:
        return "enum"
    if kind.IsInterface:
        return "interface"
    if kind.IsValueType:
        return "struct"
    if kind.IsAbstract:
        return "static class" if kind.IsSealed else "abstract class"
    return "sealed class" if kind.IsSealed else "class"


def bases(kind: Any) -> str:
    if kind.IsEnum:
        return ""
    found = [str(one) for one in kind.GetInterfaces() if "IEquatable" not in one.Name]
    if kind.BaseType is not None and kind.BaseType.FullName not in ("System.Object", "System.ValueType"):
        found.insert(0, str(kind.BaseType))
    return f" : {', '.join(found)}" if found else ""


def members(kind: Any) -> Iterator[str]:
    from System.Reflection import BindingFlags

    if kind.IsEnum:
        yield from (
            f"    {int(kind.GetField(name).GetRawConstantValue())} {name}" for name in kind.GetEnumNames()
        )
        return
    declared = BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly
    accessors = set()
    for one in kind.GetProperties(declared):
        kinds = [
            name
            for name, accessor in (("get", one.GetGetMethod()), ("set", one.GetSetMethod()))
            if accessor is not None
        ]
        accessors |= {f"{name}_{one.Name}" for name in kinds}
        yield f"    {one} {{ {'; '.join(kinds)} }}"
    for one in kind.GetEvents(declared):
        accessors |= {f"add_{one.Name}", f"remove_{one.Name}"}
        yield f"    event {one}"
    for one in kind.GetFields(declared):
        yield f"    {'const ' if one.IsLiteral else ''}{one}{f' = {one.GetRawConstantValue()}' if one.IsLiteral else ''}"
    for one in kind.GetConstructors(declared):
        yield f"    {one}"
    for one in kind.GetMethods(declared):
        if one.Name not in accessors and one.Name not in FROM_RECORD:
            yield f"    {one}"


def snapshot(paths: list[Path]) -> str:
    """Return the surface of the assemblies at these paths, which are loaded already."""
    from System import AppDomain

    wanted = {path.stem for path in paths if path.stem in {Path(project).stem for project in PROJECTS}}
    loaded = {one.GetName().Name: one for one in AppDomain.CurrentDomain.GetAssemblies()}
    return "".join(f"{line}\n" for name in sorted(wanted) for line in [f"== {name}", *surface(loaded[name])])


def main() -> None:
    """Build, load and write the snapshot."""
    from tests.rigs.dotnet import runtime
    from tests.rigs.dotnet.build import build
    from tests.rigs.dotnet.fixtures import default_out
    from tests.rigs.dotnet.toolchain import toolchain

    tools = toolchain()
    assemblies = build([REPOSITORY / project for project in PROJECTS], default_out(), tools)
    runtime.start(tools)
    runtime.add(assemblies)
    SNAPSHOT.write_text(snapshot(assemblies), encoding="utf-8")


if __name__ == "__main__":
    main()
