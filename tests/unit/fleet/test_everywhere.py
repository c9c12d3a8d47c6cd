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
    roster: Any = SimpleNamespace(reachable=lambda: ())
    everywhere = Everywhere(roster, "a", History(FixedClock()), health)
    call: Any = None
    found = everywhere.begin("worker.get_health", {}, How({}))(call)
    assert (found["state"], [each["name"] for each in found["parts"]]) == (HealthState.FAILED, ["node:a"])
