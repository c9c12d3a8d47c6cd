"""What tests of stores open is closed after each: Python from 3.13 on warns of databases that are only forgotten."""

from collections.abc import Iterator
from typing import Any

import pytest

from worker.stores.registry import Stores


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[Stores] = []
    begin = Stores.__init__

    def noted(stores: Stores, *arguments: Any, **more: Any) -> None:
        begin(stores, *arguments, **more)
        made.append(stores)

    monkeypatch.setattr(Stores, "__init__", noted)
    yield
    for stores in made:
        stores.close()
