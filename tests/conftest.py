"""Fixtures that tests of several kinds ask for."""

import os

import pytest
from hypothesis import settings

from tests.rigs.directml.fixtures import directml_libraries, directml_python, directml_rig

__all__ = ["directml_libraries", "directml_python", "directml_rig"]

pytest.register_assert_rewrite("tests.conformance.contract", "tests.conformance.support")

# Where the environment forbids to keep bytecode, each of the hundreds of workers would compile all their modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
