"""The public surface is written down, so that a change to it shows in review."""

import re
from typing import Any

from protocol.actions import ACTIONS
from tests.e2e.csharp.public_api import PROJECTS, REPOSITORY, SNAPSHOT, snapshot

PAGE = REPOSITORY / "csharp_host" / "README.md"
CANCELS = {"worker.cancel", "worker.shutdown"}
"""A token's, and disposal's."""


def test_the_public_surface_is_as_written_down(load: Any) -> None:
    """After a change that is meant: `python -m tests.e2e.csharp.public_api`."""
    written = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    found = snapshot(load(*PROJECTS)).splitlines()
    assert found == written, "run `python -m tests.e2e.csharp.public_api` and review what it changes"


def test_every_action_and_method_is_in_the_table(load: Any) -> None:
    """The page says what each method of the service asks, and how each action is asked for."""
    load(*PROJECTS)
    import clr
    from MemoryWorker.Client import IMemoryStores, IServiceMemory

    rows = [row.split("|")[1:3] for row in PAGE.read_text(encoding="utf-8").splitlines() if "| `" in row[:3]]
    listed = [row for row in rows if re.search(r"`(fleet|memory|operation|store|worker)\.", row[0])]
    actions = {name for row in listed for name in re.findall(r"`([a-z_.]+)`", row[0])}
    assert actions == ACTIONS.keys() - CANCELS
    methods = {name for row in listed for name in re.findall(r"`(\w+Async)`", row[1])}
    there = (*clr.GetClrType(IServiceMemory).GetMethods(), *clr.GetClrType(IMemoryStores).GetMethods())
    assert methods == {one.Name for one in there} - {"Store"}
