"""Build .csproj files into one folder, for Release: with `dotnet build` where there is an SDK, else with Roslyn."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from tests.rigs.dotnet import compiling
from tests.rigs.dotnet import project as projects
from tests.rigs.dotnet.compiling import BUILD_SECONDS, BuildError
from tests.rigs.dotnet.packages import ToolchainError, require
from tests.rigs.dotnet.project import ASPNET_REFERENCE, Project, ProjectError
from tests.rigs.dotnet.toolchain import ASPNET, NETCORE, Toolchain, alone, cache, frameworks

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
CONFIGURATION = projects.CONFIGURATION
DEFINES = "TRACE;RELEASE;NET;NET8_0;NETCOREAPP;" + ";".join(f"NET{n}_0_OR_GREATER" for n in range(5, 9))


@dataclass(frozen=True)
class Job:
    """One assembly, as the compiler process reads it."""

    name: str
    folder: str
    arguments: tuple[str, ...]
    packages: tuple[str, ...]
    package_folder: str
    generated: Mapping[str, str]
    """Sources that the SDK would write, by path."""
    written: Mapping[str, str]
    """Files beside the assembly, by path."""
    output: str
    stamp: str


def default_out() -> Path:
    """Return the folder for what is built from this checkout, outside it."""
    checkout = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:12]
    return cache() / "build" / checkout


def build(
    files: Iterable[Path], out: Path, tools: Toolchain, given: Mapping[str, str] = MappingProxyType({})
) -> list[Path]:
    """Build projects and all they refer to; return the assemblies, dependencies first.

    What did not change is not compiled again. ``given``: properties as ``-p:`` sets them.
    Raises ProjectError or BuildError.
    """
    out = out.resolve()
    roots = [file.resolve() for file in files]
    ordered = _in_order(roots, given)
    with alone(out / ".build"):
        if tools.sdk:
            _build_with_sdk(tools.sdk, roots, out, given)
        else:
            _build_with_roslyn(ordered, out, tools)
    return [out / f"{one.assembly}.dll" for one in ordered.values()]


def _in_order(roots: list[Path], given: Mapping[str, str]) -> dict[Path, Project]:
    ordered: dict[Path, Project] = {}

    def visit(file: Path, above: tuple[Path, ...]) -> None:
        if file in above:
            message = "projects refer to each other: " + " -> ".join(one.name for one in (*above, file))
            raise ProjectError(message)
        if file not in ordered:
            loaded = projects.load(file, given)
            for reference in loaded.references:
                visit(reference, (*above, file))
            ordered[file] = loaded

    for root in roots:
        visit(root, ())
    return ordered


def _build_with_sdk(sdk: Path, roots: list[Path], out: Path, given: Mapping[str, str]) -> None:
    quiet = {"DOTNET_NOLOGO": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1", "MSBUILDDISABLENODEREUSE": "1"}
    for root in roots:
        command = [
            *(str(sdk), "build", str(root), "--configuration", CONFIGURATION, "--output", str(out)),
            *("--nologo", "--verbosity", "quiet", "--framework", "net8.0"),
            *(f"-p:{name}={value}" for name, value in given.items()),
            *("-p:CopyLocalLockFileAssemblies=true", "-p:UseSharedCompilation=false"),
        ]
        _run(command, f"dotnet build {root.name}", quiet)


def _build_with_roslyn(ordered: Mapping[Path, Project], out: Path, tools: Toolchain) -> None:
    """Compile what is stale in a process of the compiler's: a process holds one runtime, and the tests need theirs."""
    stale: list[Job] = []
    digests: dict[Path, str] = {}
    for file, one in ordered.items():
        seen = _seen_by(one, ordered)
        job = _job(one, seen, out, tools)
        digests[file] = digest = _digest(job, one, [digests[other.file] for other in seen])
        stamp = Path(job.stamp)
        if stamp.exists() and stamp.read_text() == digest and Path(job.output).exists():
            continue
        stamp.parent.mkdir(parents=True, exist_ok=True)
        for old in (stamp, Path(job.output)):
            old.unlink(missing_ok=True)  # a failed build leaves nothing old to be tested
        stale.append(job)
    if not stale:
        return
    require("pythonnet", "3.0", "to compile without an SDK")
    plan = out / ".build" / "plan.json"
    plan.write_text(json.dumps([asdict(job) for job in stale], indent=1))
    compiling.run(plan, tools.net8, tools.roslyn)
    for job in stale:
        source = next(one for one in ordered.values() if one.assembly == job.name)
        Path(job.stamp).write_text(digests[source.file])


def _seen_by(one: Project, ordered: Mapping[Path, Project]) -> list[Project]:
    """Return the projects whose assemblies this one can see: a ProjectReference is transitive."""
    files, pending = set(), list(one.references)
    while pending:
        file = pending.pop()
        files.add(file)
        pending += ordered[file].references
    return [other for file, other in ordered.items() if file in files]


def _job(one: Project, seen: list[Project], out: Path, tools: Toolchain) -> Job:
    """Say what the SDK's targets would tell the compiler."""
    packages, uses_aspnet = _packages(one, seen, tools)
    root = tools.aspnet if packages or uses_aspnet else tools.net8
    shared = frameworks(root)
    references = sorted(shared[NETCORE].glob("*.dll"))
    references += sorted(shared[ASPNET].glob("*.dll")) if uses_aspnet else []
    references += [out / f"{other.assembly}.dll" for other in seen]
    references += one.assemblies
    work = out / ".build" / one.assembly
    generated = {str(work / f"{name}.g.cs"): text for name, text in _generated(one).items()}
    name = out / one.assembly
    arguments = (
        *(
            "/noconfig",
            "/nostdlib+",
            "/deterministic+",
            "/debug:portable",
            f"/out:{name}.dll",
            f"/define:{DEFINES}",
        ),
        f"/target:{'exe' if one.is_executable else 'library'}",
        f"/optimize{'+' if one.is_on('Optimize') else '-'}",
        f"/langversion:{one.get('LangVersion', '12')}",
        f"/warn:{one.get('WarningLevel', '8')}",
        f"/nullable:{one.get('Nullable', 'disable')}",
        f"/nowarn:{one.get('NoWarn').replace(';', ',')}",
        f"/warnaserror{'+' if one.is_on('TreatWarningsAsErrors') else '-'}",
        f"/unsafe{'+' if one.is_on('AllowUnsafeBlocks') else '-'}",
        f"/checked{'+' if one.is_on('CheckForOverflowUnderflow') else '-'}",
        *((f"/pathmap:{one.get('PathMap')}",) if one.get("PathMap") else ()),
        *((f"/doc:{name}.xml",) if one.is_on("GenerateDocumentationFile") else ()),
        *(f"/reference:{file}" for file in references),
        *(f"/resource:{place},{name}" for name, place in one.resources),
        *map(str, one.sources()),
        *generated,
    )
    return Job(
        name=one.assembly,
        folder=str(one.file.parent),
        arguments=arguments,
        packages=packages,
        package_folder=str(shared.get(ASPNET, "")),
        generated=generated,
        written={f"{name}.runtimeconfig.json": _runtimeconfig(one, root)} if one.is_executable else {},
        output=f"{name}.dll",
        stamp=str(work / "digest"),
    )


def _packages(one: Project, seen: list[Project], tools: Toolchain) -> tuple[tuple[str, ...], bool]:
    """Return the packages outside .NET itself that are compiled against, and whether it is all of ASP.NET."""
    together = [one, *seen]
    named = {name for each in together for name in each.items.get("PackageReference", ())}
    core, web = frameworks(tools.net8)[NETCORE], frameworks(tools.aspnet)[ASPNET]
    outside = sorted(name for name in named if not (core / f"{name}.dll").exists())
    if unknown := [name for name in outside if not (web / f"{name}.dll").exists()]:
        message = (
            f"{one.file}: {', '.join(unknown)} cannot be had without NuGet; ASP.NET Core's own packages can"
        )
        raise ProjectError(message)
    uses_aspnet = any(ASPNET_REFERENCE in each.items.get("FrameworkReference", ()) for each in together)
    return tuple(outside), uses_aspnet


def _generated(one: Project) -> dict[str, str]:
    version = one.get("Version", "1.0.0")
    numbers = ".".join([*version.split("-")[0].split("."), "0", "0", "0"][:4])
    facts = {
        "System.Runtime.Versioning.TargetFramework": ".NETCoreApp,Version=v8.0",
        "System.Reflection.AssemblyVersion": numbers,
        "System.Reflection.AssemblyFileVersion": numbers,
        "System.Reflection.AssemblyInformationalVersion": version,
        "System.Reflection.AssemblyTitle": one.assembly,
    }
    lines = [f'[assembly: {name}("{value}")]' for name, value in facts.items()]
    if one.is_on("IsAotCompatible") or one.is_on("IsTrimmable"):
        lines.append('[assembly: System.Reflection.AssemblyMetadata("IsTrimmable", "True")]')
    visible = one.items.get("InternalsVisibleTo", ())
    lines += [f'[assembly: System.Runtime.CompilerServices.InternalsVisibleTo("{name}")]' for name in visible]
    head = "// <auto-generated/>\n"
    return {
        "GlobalUsings": head + "".join(f"global using global::{name};\n" for name in one.usings),
        "AssemblyInfo": head + "".join(f"{line}\n" for line in lines),
    }


def _runtimeconfig(one: Project, root: Path) -> str:
    wanted = [{"name": name, "version": folder.name} for name, folder in sorted(frameworks(root).items())]
    options = {"tfm": "net8.0", "rollForward": one.get("RollForward", "Major"), "frameworks": wanted}
    return json.dumps({"runtimeOptions": options}, indent=2) + "\n"


def _digest(job: Job, one: Project, dependencies: list[str]) -> str:
    """Sum up everything that the assembly depends on, by content."""
    told = hashlib.sha256(json.dumps([asdict(job), dependencies], sort_keys=True).encode())
    resources = (place for _, place in one.resources)
    for file in (*one.sources(), *resources, *one.assemblies, *sorted(HERE.glob("*.py"))):
        told.update(hashlib.sha256(file.read_bytes()).digest())
    return told.hexdigest()


def _run(command: list[str], what: str, environment: Mapping[str, str]) -> None:
    """Run a build. It writes to a file, since a build server it leaves behind would hold a pipe open."""
    with tempfile.TemporaryFile() as said:
        try:
            code: object = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                check=False,
                timeout=BUILD_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"a timeout after {BUILD_SECONDS} s"
        said.seek(0)
        text = said.read().decode(errors="replace")
    if code != 0:
        message = f"{what} ended with {code}:\n{text}"
        raise BuildError(message)


__all__ = ["BuildError", "ProjectError", "ToolchainError", "build"]
