"""A host's own memory in the worker's stores, from C#."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import REPOSITORY, run_probe
from tests.rigs.dotnet.toolchain import Toolchain


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the probe once and return what it saw."""
    folder: Path = tmp_path_factory.mktemp("stores")
    return run_probe(toolchain, "StoreProbe", sys.executable, str(REPOSITORY), str(folder))


def test_a_cache_makes_once_and_hands_out_copies(seen: dict[str, Any]) -> None:
    """It is opened by what is put first; another scope sees nothing of it."""
    assert seen["nothing_yet"] is None
    assert seen["made_once"]
    assert seen["scopes"]
    assert seen["stats"] == {"EntryCount": 1, "Hits": 1, "LimitBytes": 2**20, "Priced": True}


def test_what_has_no_place_is_returned_all_the_same(seen: dict[str, Any]) -> None:
    """An entry above the bound is no error to who only wants it made."""
    assert seen["too_large_is_returned"]
    assert seen["deleted"] == [1, False, True]


def test_bytes_are_no_value(seen: dict[str, Any]) -> None:
    """They are not told as null, or as not there: who asks for a value is told how bytes are had."""
    assert seen["bytes"] == [None, 16]
    [told] = set(seen["bytes_as_values"])
    assert told == "'bytes' of store 'answers' is bytes, not a value: get them with IMemoryStores.GetAsync"


def test_a_worker_that_dies_takes_only_memory_with_it(seen: dict[str, Any]) -> None:
    """What persists is there again with the next one, and stores open by themselves."""
    assert (seen["persists"], seen["lost"], seen["open_again"]) == (3, True, "again")


def test_a_user_is_forgotten_and_a_store_closed(seen: dict[str, Any]) -> None:
    """With what went."""
    assert seen["forgotten"] == {"Stores": ["results"], "DeletedEntries": 1, "Freed": True}
    assert seen["closed"]
    assert seen["refused"] == "store_not_found"
