"""Write .nupkg and .snupkg of a project, as `dotnet pack` would: where there is no SDK, and byte for byte again.

What it writes is read from the project alone. Two things differ from an SDK's: only lib/net8.0 is in it, and the
assemblies were compiled against the runtime's own. It is for tests and for a look; releases are packed with an SDK.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.rigs.dotnet import project as projects
from tests.rigs.dotnet.build import BuildError, build
from tests.rigs.dotnet.packages import require
from tests.rigs.dotnet.project import Project
from tests.rigs.dotnet.toolchain import ASPNET, NETCORE, Toolchain, frameworks

REPOSITORY = Path(__file__).resolve().parents[3]
LIBRARIES = tuple(
    REPOSITORY / f"csharp_host/src/MemoryWorker.{name}/MemoryWorker.{name}.csproj"
    for name in ("Client", "Hosting", "Testing")
)
FRAMEWORK = "net8.0"
NUSPEC = "http://schemas.microsoft.com/packaging/2013/05/nuspec.xsd"
EPOCH = "1704067200"
"""Of every file in an archive, 2024-01-01: the same sources make the same bytes, whenever they are packed."""
WHEN = (2024, 1, 1, 0, 0, 0)


def make_wheel(folder: Path, source: Path = REPOSITORY) -> Path:
    """Build the worker's wheel from a checkout, which stays as it is: what is built is a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        copy_sources(source, Path(scratch))
        _backend("build_wheel", Path(scratch), folder)
    return next(folder.glob("memory_worker-*.whl"))


def make_sdist(folder: Path, source: Path = REPOSITORY) -> Path:
    """Build the source distribution, likewise."""
    with tempfile.TemporaryDirectory() as scratch:
        copy_sources(source, Path(scratch))
        _backend("build_sdist", Path(scratch), folder)
    return next(folder.glob("memory_worker-*.tar.gz"))


def copy_sources(source: Path, folder: Path) -> None:
    """Copy what the Python package is made of."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "worker", "protocol"):
        for file in sorted((source / name).rglob("*")) if (source / name).is_dir() else [source / name]:
            if file.is_file() and "__pycache__" not in file.parts:
                place = folder / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())


def _backend(hook: str, source: Path, folder: Path) -> None:
    require("setuptools", "77", "to build the worker's package")
    folder.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.resolve())],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"setuptools did not make the package: {done.stderr[-2000:]}"
        raise BuildError(message)


def pack(files: Iterable[Path], out: Path, work: Path, tools: Toolchain, wheel: Path) -> list[Path]:
    """Build projects with the wheel inside, and write a .nupkg and a .snupkg of each that says that it is a package."""
    given = {
        "MemoryWorkerWheel": str(wheel.resolve()),
        "MemoryWorkerWheelName": wheel.name,
        "PathMap": f"{REPOSITORY}=/_/,{work.resolve()}=/_/obj/",
    }
    files = [file.resolve() for file in files]
    build(files, work, tools, given)
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for file in files:
        one = projects.load(file, given)
        if not one.is_on("IsPackable"):
            continue
        name = f"{one.assembly}.{one.get('Version')}"
        library = {
            f"lib/{FRAMEWORK}/{one.assembly}{end}": work / f"{one.assembly}{end}" for end in (".dll", ".xml")
        }
        symbols = {f"lib/{FRAMEWORK}/{one.assembly}.pdb": work / f"{one.assembly}.pdb"}
        for place, contents, is_symbols in (
            (out / f"{name}.nupkg", {**library, **_beside(one)}, False),
            (out / f"{name}.snupkg", symbols, True),
        ):
            _write(place, one, contents, _nuspec(one, tools, is_symbols=is_symbols))
            made.append(place)
    return made


def _beside(one: Project) -> dict[str, Path]:
    """Return the files that the project's readme and icon properties name."""
    return {
        one.get(name): REPOSITORY / "csharp_host" / "package" / one.get(name)
        for name in ("PackageReadmeFile", "PackageIcon")
    }


def _nuspec(one: Project, tools: Toolchain, *, is_symbols: bool) -> bytes:
    root = ET.Element("package", xmlns=NUSPEC)
    about = ET.SubElement(root, "metadata")
    facts = {
        "id": one.assembly,
        "version": one.get("Version"),
        "authors": one.get("Authors"),
        "license": one.get("PackageLicenseExpression"),
        "icon": one.get("PackageIcon"),
        "readme": one.get("PackageReadmeFile"),
        "projectUrl": one.get("PackageProjectUrl"),
        "description": one.get("Description"),
        "tags": one.get("PackageTags").replace(";", " "),
    }
    if is_symbols:
        for name in ("license", "icon", "readme"):
            del facts[name]
        ET.SubElement(ET.SubElement(about, "packageTypes"), "packageType", name="SymbolsPackage")
    for name, value in facts.items():
        element = ET.SubElement(about, name)
        element.text = value
        if name == "license":
            element.set("type", "expression")
    ET.SubElement(about, "repository", type=one.get("RepositoryType"), url=one.get("RepositoryUrl"))
    if not is_symbols:
        group = ET.SubElement(ET.SubElement(about, "dependencies"), "group", targetFramework=FRAMEWORK)
        for name, version in sorted(_dependencies(one, tools).items()):
            ET.SubElement(group, "dependency", id=name, version=version, exclude="Build,Analyzers")
    ET.indent(root)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def _dependencies(one: Project, tools: Toolchain) -> dict[str, str]:
    """Return packages with their versions: at least the major version that was compiled against, which may be newer."""
    shared = frameworks(tools.aspnet)
    compiled = f"{shared[ASPNET].name.split('.')[0]}.0.0"
    found = {}
    for name in one.items.get("PackageReference", ()):
        if not (shared[NETCORE] / f"{name}.dll").exists():
            found[name] = max(one.versions[name], compiled, key=_numbers)
    for file in one.references:
        other = projects.load(file)
        found[other.assembly] = other.get("Version")
    return found


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _write(place: Path, one: Project, contents: Mapping[str, Path], nuspec: bytes) -> None:
    """Write an Open Packaging archive whose bytes depend on its contents alone."""
    identity = f"{one.assembly}{one.get('Version')}".encode()
    digest = hashlib.md5(identity, usedforsecurity=False).hexdigest()
    core = f"package/services/metadata/core-properties/{digest}.psmdcp"
    parts = {
        "_rels/.rels": _relations(f"/{one.assembly}.nuspec", f"/{core}"),
        f"{one.assembly}.nuspec": nuspec,
        **{name: file.read_bytes() for name, file in contents.items()},
        "[Content_Types].xml": _content_types({*contents, core, f"{one.assembly}.nuspec"}),
        core: _core_properties(one),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            entry = zipfile.ZipInfo(name, WHEN)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    place.write_bytes(buffer.getvalue())


def _relations(nuspec: str, core: str) -> bytes:
    root = ET.Element("Relationships", xmlns="http://schemas.openxmlformats.org/package/2006/relationships")
    kinds = {
        "http://schemas.microsoft.com/packaging/2010/07/manifest": nuspec,
        "http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties": core,
    }
    for number, (kind, target) in enumerate(kinds.items(), 1):
        ET.SubElement(root, "Relationship", Type=kind, Target=target, Id=f"R{number}")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8")


def _content_types(names: set[str]) -> bytes:
    known = {
        "rels": "application/vnd.openxmlformats-package.relationships+xml",
        "psmdcp": "application/vnd.openxmlformats-package.core-properties+xml",
    }
    root = ET.Element("Types", xmlns="http://schemas.openxmlformats.org/package/2006/content-types")
    for extension in sorted({"rels", *(name.rpartition(".")[2] for name in names)}):
        ET.SubElement(
            root, "Default", Extension=extension, ContentType=known.get(extension, "application/octet")
        )
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8")


def _core_properties(one: Project) -> bytes:
    names = {
        "xmlns": "http://schemas.openxmlformats.org/package/2006/metadata/core-properties",
        "xmlns:dc": "http://purl.org/dc/elements/1.1/",
    }
    root = ET.Element("coreProperties", names)
    facts = {
        "dc:creator": one.get("Authors"),
        "dc:description": one.get("Description"),
        "dc:identifier": one.assembly,
        "version": one.get("Version"),
        "keywords": one.get("PackageTags").replace(";", " "),
    }
    for name, value in facts.items():
        ET.SubElement(root, name).text = value
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8")
