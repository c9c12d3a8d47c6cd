"""The packages and the wheel, built once."""

import zipfile
from pathlib import Path

import pytest

from tests.rigs.dotnet.pack import LIBRARIES, make_wheel, pack
from tests.rigs.dotnet.toolchain import Toolchain

NAMES = [file.stem for file in LIBRARIES]
VERSION = "0.1.0"


@pytest.fixture(scope="session")
def dist(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the packages; they are built twice, in other folders, in ``again``."""
    pytest.importorskip("setuptools", reason="building a wheel takes setuptools")
    folder = tmp_path_factory.mktemp("dist")
    wheel = make_wheel(folder)
    pack(LIBRARIES, folder, tmp_path_factory.mktemp("work"), toolchain, wheel)
    pack(
        LIBRARIES, folder / "again", tmp_path_factory.mktemp("work"), toolchain, make_wheel(folder / "again")
    )
    return folder


@pytest.fixture(scope="session")
def unpacked(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the assemblies out of the packages."""
    folder = tmp_path_factory.mktemp("packages")
    for name in NAMES:
        with zipfile.ZipFile(dist / f"{name}.{VERSION}.nupkg") as archive:
            for inside in archive.namelist():
                if inside.startswith("lib/"):
                    (folder / Path(inside).name).write_bytes(archive.read(inside))
    return folder
