"""What a gateway sends to a node and asks no answer of. Ray itself is stood in for."""

from concurrent.futures import Future
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


@pytest.mark.parametrize("send", ["cancel", "drain", "leave"])
def test_a_bug_in_what_nobody_waits_for_is_logged(send: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray is told to say nothing of it; that a node is lost is told of elsewhere."""
    from worker.fleet.freeing import Freeing
    from worker.fleet.links import LOST, Link

    sent: list[Future[None]] = []

    def remote(*_: Any, **__: Any) -> Any:
        sent.append(Future())
        return SimpleNamespace(future=lambda: sent[-1])

    handle = SimpleNamespace(**{send: SimpleNamespace(remote=remote)})
    link = Link("node-1", handle, "g", Freeing(), lambda *_: None, lambda *_: None)
    asked = ["call-1"] if send == "cancel" else []
    for outcome in (None, LOST[0](), ZeroDivisionError("a slip of a node's")):
        getattr(link, send)(*asked)
        if outcome is None:
            sent[-1].set_result(None)
        else:
            sent[-1].set_exception(outcome)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "a slip of a node's" in said[0]
