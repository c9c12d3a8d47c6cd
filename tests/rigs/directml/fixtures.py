"""Pytest fixtures; tests/conftest.py hands them to all tests."""

from pathlib import Path

import pytest

from tests.rigs.directml.build import UnavailableError, build
from tests.rigs.directml.environment import interpreter
from tests.rigs.directml.rig import Rig


@pytest.fixture(scope="session")
def directml_python() -> Path:
    """Return a Python with the real torch_directml; skip where there can be none."""
    try:
        return interpreter()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def directml_libraries() -> Path:
    """Return the folder of the simulated runtime; skip where there can be none."""
    try:
        return build()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def directml_rig(directml_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """Return a simulated machine that nothing runs on yet."""
    return Rig(directml_libraries, tmp_path_factory.mktemp("directml"))
