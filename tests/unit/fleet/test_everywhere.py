"""What is asked of every node, where there is none."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.vocabulary import HealthState
from worker.core.clock import FixedClock
from worker.core.health import Health, PartHealth
from worker.fleet.asked import How
from worker.metrics.history import History

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def test_a_gateway_whose_nodes_are_all_lost_says_how_it_is() -> None:
    """Its own parts say which nodes are lost: that is when health is looked at."""
    from worker.fleet.everywhere import Everywhere

    health = Health()
    health.add("nodes", lambda: [PartHealth("node:a", HealthState.FAILED)])
    roster: Any = SimpleNamespace(reachable=lambda **_: ())
    everywhere = Everywhere(roster, "a", History(FixedClock()), health)
    call: Any = None
    found = everywhere.begin("worker.get_health", {}, How({}))(call)
    assert (found["state"], [each["name"] for each in found["parts"]]) == (HealthState.FAILED, ["node:a"])


def test_a_node_that_does_not_answer_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease may last on: the directory's word is some seconds old."""
    from worker.core.errors import DeviceUnavailableError
    from worker.fleet import everywhere

    class Pending:
        def __init__(self, node_id: str) -> None:
            self.link = SimpleNamespace(node_id=node_id)
            self.ref = node_id

        def answer(self, _call: Any) -> dict[str, Any]:
            if self.ref == "dying":
                raise DeviceUnavailableError("lost")
            return {"state": "ok", "parts": [{"name": "requests", "state": "ok", "reason": None}]}

    monkeypatch.setattr(everywhere.ray, "wait", lambda refs, **_: (refs[:2], refs[2:]))
    names = ("a", "dying", "hangs")
    links = [SimpleNamespace(node_id=each, send=lambda *_, node=each: Pending(node)) for each in names]
    health = Health()
    health.add("nodes", lambda: [PartHealth(f"node:{each}", HealthState.OK) for each in names])
    roster: Any = SimpleNamespace(reachable=lambda **_: links)
    call: Any = None
    asked = everywhere.Everywhere(roster, "a", History(FixedClock()), health)
    found = asked.begin("worker.get_health", {}, How({}))(call)
    states = {each["name"]: each["state"] for each in found["parts"]}
    assert found["state"] == HealthState.DEGRADED
    assert states == {"node:a": "ok", "node:dying": "degraded", "node:hangs": "degraded", "a/requests": "ok"}
