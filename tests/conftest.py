"""Fixtures that tests of several kinds ask for."""

import os

import pytest
from hypothesis import settings

from tests.rigs.directml.fixtures import directml_libraries, directml_python, directml_rig

__all__ = ["directml_libraries", "directml_python", "directml_rig"]

pytest.register_assert_rewrite("tests.conformance.contract", "tests.conformance.support")

_PROCESSES = 2


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, which wait for what they start at different times; parts of it in one.

    ``-n 0`` runs it in one, too, and so does an environment without pytest-xdist.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_worker = hasattr(config, "workerinput")
    if whole and not is_worker and not config.option.usepdb and config.getoption("numprocesses", 0) is None:
        config.option.numprocesses, config.option.dist = _PROCESSES, "loadfile"
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the run, begin with the files that take long: none is to be the last alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "e2e" not in item.path.parts)


# Where the environment forbids to keep bytecode, each of the hundreds of workers would compile all their modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
