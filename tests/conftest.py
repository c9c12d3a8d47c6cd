"""Fixtures that tests of several kinds ask for."""

import pytest

from tests.rigs.directml.fixtures import directml_libraries, directml_python, directml_rig

__all__ = ["directml_libraries", "directml_python", "directml_rig"]

pytest.register_assert_rewrite("tests.conformance.contract", "tests.conformance.support")
