"""Fixtures that tests of several kinds ask for."""

import pytest
from hypothesis import settings

from tests.rigs.directml.fixtures import directml_libraries, directml_python, directml_rig

__all__ = ["directml_libraries", "directml_python", "directml_rig"]

pytest.register_assert_rewrite("tests.conformance.contract", "tests.conformance.support")

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
