"""The packages: what is in them, and that they are the same each time."""

import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import REPOSITORY
from tests.e2e.csharp.packed import NAMES, VERSION
from tests.rigs.dotnet.pack import FRAMEWORK, LIBRARIES, NUSPEC
from tests.rigs.dotnet.project import load as load_project


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
