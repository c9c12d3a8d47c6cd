"""What tests of units in several folders ask for."""

import pytest

from tests.unit.isolation import RIGS


@pytest.fixture
def rigs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that a test starts import what misbehaves in them."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
