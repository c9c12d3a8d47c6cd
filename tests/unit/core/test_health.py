"""The worker is as well as its worst part; a part that can't say how it is has failed."""

import pytest

from protocol.vocabulary import HealthState
from worker.core.health import Health, PartHealth, worst


def test_parts_are_asked_in_order_each_time() -> None:
    """What a part says is as it is now."""
    health, said = Health(), [PartHealth("a", HealthState.OK)]
    health.add("a", lambda: said)
    health.add("b", lambda: [PartHealth("b:1", HealthState.OFF, "none"), PartHealth("b:2", HealthState.OK)])
    assert [each.name for each in health.read()] == ["a", "b:1", "b:2"]
    said[:] = [PartHealth("a", HealthState.FAILED, "it ended")]
    assert health.read()[0].reason == "it ended"


def test_a_part_that_can_not_say_has_failed() -> None:
    """The others are still told of."""
    health = Health()
    health.add("a", lambda: [PartHealth("a", HealthState(1 / 0))])
    health.add("b", lambda: [PartHealth("b", HealthState.OK)])
    broken, fine = health.read()
    assert (broken.name, broken.state, fine.state) == ("a", HealthState.FAILED, HealthState.OK)
    assert "ZeroDivisionError" in str(broken.reason)


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        ([], "ok"),
        (["off"], "off"),
        (["ok", "off"], "ok"),
        (["ok", "starting"], "starting"),
        (["degraded", "starting", "ok"], "degraded"),
        (["degraded", "failed", "off"], "failed"),
    ],
)
def test_the_whole_is_as_its_worst_part(states: list[str], whole: str) -> None:
    """What is not there makes nothing worse."""
    assert worst(PartHealth(each, HealthState(each)) for each in states) == whole
