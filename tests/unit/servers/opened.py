"""Stand-ins for model servers, served over real HTTP, and what asks them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.rigs.model_servers import (
    STAND_INS,
    StandIn,
    serving,
)
from worker.core.models import ServerSpec
from worker.servers import http
from worker.servers.base import ModelServer
from worker.servers.known import open_server

GIB = 2**30
SIZES = {"small": GIB, "large": 4 * GIB}


@pytest.fixture(autouse=True)
def waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for servers that are well as long as a busy machine takes."""
    monkeypatch.setattr(http, "CONNECT_S", 60.0)
    monkeypatch.setattr(http, "ANSWER_S", 60.0)


@pytest.fixture
def opened() -> Iterator["Open"]:
    """Return what serves a stand-in, and asks it."""
    with ExitStack() as stack:
        yield Open(stack)


class Open:
    """Serves stand-ins until the test is over."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self, kind: str, device_id: str = "cuda:0", models: dict[str, int] | None = None
    ) -> tuple[StandIn, ModelServer]:
        made = STAND_INS[kind](SIZES if models is None else models)
        url = self._stack.enter_context(serving(made))
        found = open_server(ServerSpec(kind, kind, url), device_id)
        self._stack.callback(found.server.close)
        return made, found.server
