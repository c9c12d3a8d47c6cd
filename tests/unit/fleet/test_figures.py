"""A fleet's figures: every node's devices in the contract's form, and of what is not read the newest alone."""

from collections.abc import Callable
from typing import Any

import orjson

from protocol.contract import adapter
from tests.contract.golden_files import Golden
from worker.core.clock import FixedClock
from worker.core.events import Figures
from worker.fleet.asked import Data, How, Run
from worker.fleet.channel import Channel
from worker.fleet.figures import tell_figures


class Nodes:
    """Answers as nodes of a fleet did; ``memory.get_pressure`` for none of them where it is told so."""

    def __init__(self, *, pressure: bool = True) -> None:
        lines = [orjson.loads(line) for line in Golden("get_status").answered.read_bytes().splitlines()]
        self.status: Data = next(line["data"] for line in lines if line["request_id"] == "all, read anew")
        rows = [{**row, "pressure_percentage": 50.0, "trend": None} for row in self.status["devices"]]
        self.pressure = {"devices": rows if pressure else []}

    def begin(self, name: str, _data: Data, _how: How) -> Run:
        """Answer."""
        recommended: Data = {"recommendations": []}
        found = {"memory.get_status": self.status, "memory.get_pressure": self.pressure}
        return lambda _call: found.get(name, recommended)


def told(*nodes: Nodes) -> list[dict[str, Any]]:
    """Take figures of each, while the host does not read. Returns what it then reads."""
    waiting: list[Callable[[], bytes]] = []
    channel, clock = Channel(lambda make, _size, _dropped: waiting.append(make)), FixedClock()
    channel.subscribe((Figures,))
    for each in nodes:
        everywhere: Any = each
        assert tell_figures(everywhere, clock, clock.now_ns(), channel)
    return [orjson.loads(make()) for make in waiting]


def test_they_are_what_the_contract_says() -> None:
    """With a node's own words where it answered only one of the questions, and null for what it did not say."""
    for nodes, percentage in ((Nodes(), 50.0), (Nodes(pressure=False), None)):
        (event,) = told(nodes)
        adapter("FiguresData").validate_json(orjson.dumps(event["data"]))
        assert [row["device_id"] for row in event["data"]["devices"]] == ["cpu", "sim:0"]
        assert {row["pressure_percentage"] for row in event["data"]["devices"]} == {percentage}


def test_a_host_that_does_not_read_has_the_newest_alone() -> None:
    """Those of a thousand nodes are long: at most one of them waits."""
    (event,) = told(*[Nodes()] * 5)
    assert (event["sequence"], event["data"]["skipped"]) == (1, 4)
