"""What is said of a node that was emptied."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from worker.core.cancellation import CancelToken
from worker.core.errors import AllocationNotFoundError, OutOfMemoryError
from worker.core.records import no_report
from worker.fleet.asked import How
from worker.stream.work import Call

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def test_what_its_host_freed_meanwhile_does_not_stay() -> None:
    """Only what is still there is kept, and why."""
    from worker.fleet.draining import Draining

    rows = [
        {
            "allocation_id": f"node-1/{each}",
            "device_id": "node-1/cpu",
            "size_bytes": 1,
            "memory_type": "device",
        }
        for each in ("freed", "stays")
    ]
    answers = {
        "memory.get_allocations": {"allocations": rows, "next": None},
        "memory.get_model_status": {"models": []},
    }
    link: Any = SimpleNamespace(node_id="node-1", drain=lambda: None, ask=lambda name, *_: answers[name])
    chosen = SimpleNamespace(chosen=SimpleNamespace(node_id="node-2", device_id="cpu"))
    roster: Any = SimpleNamespace(
        names=lambda: ("node-1",), link=lambda _: link, view=lambda _: None, place=lambda _: chosen
    )

    def move(allocation_id: str, *_: object) -> None:
        if allocation_id == "node-1/freed":
            raise AllocationNotFoundError(
                "it is not live", allocation_id=allocation_id, reason="already_freed"
            )
        raise OutOfMemoryError("no room after all")

    holdings: Any = SimpleNamespace(on_node=lambda _: {each["allocation_id"]: "" for each in rows})
    transfers: Any = SimpleNamespace(move=move)
    nothing: Any = None
    draining = Draining(roster, holdings, nothing, transfers)
    found = draining.begin("fleet.drain", {"node": "node-1"}, How({}))(
        Call(CancelToken(lambda: 0), no_report)
    )
    assert (found["moved"], found["kept"]) == ([], [{"id": "node-1/stays", "reason": "no room after all"}])
