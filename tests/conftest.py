"""Fixtures that tests of several kinds ask for."""

from tests.rigs.directml.fixtures import directml_libraries, directml_python, directml_rig

__all__ = ["directml_libraries", "directml_python", "directml_rig"]
