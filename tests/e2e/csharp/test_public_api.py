"""The public surface is written down, so that a change to it shows in review."""

from typing import Any

from tests.e2e.csharp.public_api import PROJECTS, SNAPSHOT, snapshot


def test_the_public_surface_is_as_written_down(load: Any) -> None:
    """After a change that is meant: `python -m tests.e2e.csharp.public_api`."""
    written = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    found = snapshot(load(*PROJECTS)).splitlines()
    assert found == written, "run `python -m tests.e2e.csharp.public_api` and review what it changes"
