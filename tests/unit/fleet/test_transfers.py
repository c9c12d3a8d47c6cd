"""Contents on their way between nodes, where one of them is lost. Ray itself is stood in for."""

import hashlib
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from worker.core.errors import DeviceUnavailableError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


@pytest.mark.parametrize(("ends", "lost"), [("digest", "node-1"), ("written", "node-2")])
def test_the_node_that_is_lost_is_the_one_that_ended(ends: str, lost: str) -> None:
    """A piece is read on the one and written on the other: the other one goes on, with all that it has."""
    from worker.fleet import links, transfers

    def result(ref: str, _token: Any) -> bytes:
        if ref == ends:
            raise links.ray.exceptions.ActorUnavailableError("Socket closed", None)
        return b""

    def link(name: str) -> Any:
        return SimpleNamespace(lost=lambda error, action: DeviceUnavailableError(name), result=result)

    both: Any = SimpleNamespace(source=link("node-1"), destination=link("node-2"))
    call: Any = SimpleNamespace(check=lambda: None, token=None)
    copy = transfers._Copy(both, {}, call, [])
    with pytest.raises(DeviceUnavailableError, match=lost):
        copy._await((1, "digest", "written"), hashlib.sha256(), lambda completed: None)
