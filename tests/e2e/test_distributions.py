"""The wheel and the source distribution: what they say of themselves, what is in them, and that one makes the other."""

import email
import re
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.e2e.process import ROOT
from tests.rigs.dotnet.pack import make_sdist, make_wheel

pytest.importorskip("setuptools", reason="building a wheel takes setuptools")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"memory_worker", "protocol", "worker"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both."""
    made = tmp_path_factory.mktemp("dist")
    make_wheel(made)
    make_sdist(made)
    return made


def in_wheel(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def in_sdist(folder: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for one in archive.getmembers():
            if one.isfile():
                opened = archive.extractfile(one)
                assert opened is not None
                found[one.name.partition("/")[2]] = opened.read()
    return found


def about(folder: Path, kind: str) -> Message:
    """Return what one of them says of itself."""
    if kind == "sdist":
        return email.message_from_bytes(in_sdist(folder)["PKG-INFO"])
    return email.message_from_bytes(
        next(data for name, data in in_wheel(folder).items() if name.endswith(".dist-info/METADATA"))
    )


def payload(told: Message) -> str:
    raw = told.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode().strip()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_it_says_of_itself(folder: Path, kind: str) -> None:
    """Licence, addresses, classifiers, the Pythons it runs on, and the readme as its description."""
    told = about(folder, kind)
    assert (told["Name"], told["License-Expression"], told["Requires-Python"]) == (
        "memory-worker",
        "MIT",
        ">=3.11",
    )
    assert told["Summary"] == PROJECT["description"]
    urls = dict(each.split(", ") for each in told.get_all("Project-URL", []))
    assert {"Homepage", "Documentation", "Changelog"} <= set(urls)
    assert all(url.startswith("https://memory-worker.example") for url in urls.values())
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    assert payload(told) == (ROOT / "README.md").read_text().strip()


def test_what_is_in_the_wheel(folder: Path) -> None:
    """The packages, each typed, with what they read at run time; the licence and the script; no test and no C#."""
    inside = in_wheel(folder)
    assert {name.partition("/")[0] for name in inside if ".dist-info/" not in name} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in inside
    assert {"worker/tools/report/page.css", "worker/tools/report/page.js"} <= set(inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    scripts = next(data for name, data in inside.items() if name.endswith("entry_points.txt")).decode()
    assert "memory-worker = memory_worker:main" in scripts
    assert not [name for name in inside if re.search(r"tests?/|\.cs$|\.csproj$|__pycache__", name)]


def test_every_module_of_the_checkout_is_in_it(folder: Path) -> None:
    """Nothing is forgotten."""
    inside = in_wheel(folder)
    for package in ("worker", "protocol"):
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix().removeprefix("worker/entry/")
            assert name in inside, name


def test_the_sdist_makes_the_same_wheel(folder: Path, tmp_path: Path) -> None:
    """What is installed from source is what is installed from the wheel."""
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    made = make_wheel(tmp_path / "wheel", source)
    other = in_wheel(made.parent)
    own = in_wheel(folder)
    assert {name: data for name, data in other.items() if "RECORD" not in name} == {
        name: data for name, data in own.items() if "RECORD" not in name
    }


def test_the_extras_are_the_documented_ones(folder: Path) -> None:
    """Each extra but the tests' own is explained in the documentation, and none is explained that is not there."""
    there = set(about(folder, "wheel").get_all("Provides-Extra", [])) - {"test"}
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "csharp_host").rglob("*.md")]
    named: set[str] = set()
    for text in texts:
        for found in re.findall(r"memory-worker\[([\w,-]+)\]|\.\[([\w,-]+)\]", text.read_text()):
            named |= {one for group in found for one in group.split(",") if one}
    assert named - {"test"} == there
