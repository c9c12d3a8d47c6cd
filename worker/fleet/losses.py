"""What the host is told of nodes: their own events, and, where one is lost, what went with it."""

from typing import Any, NamedTuple, Protocol

from protocol.vocabulary import EventName
from worker.fleet.channel import Publish
from worker.fleet.holdings import Holdings
from worker.fleet.names import joined, outward
from worker.fleet.views import NodeView


class OnLost(Protocol):
    """What is told of a node that is lost."""

    def __call__(self, node: str, why: str, view: NodeView, before: str, *, again: bool = False) -> None:
        """Tell of it."""
        ...


class Lost(NamedTuple):
    """Why a node is lost, since when it is, and when that was noticed, by ``time.monotonic``."""

    why: str
    since: float
    noticed_at: float


class Losses:
    """Takes over what nodes tell and what becomes of them. Thread-safe."""

    def __init__(self, holdings: Holdings, publish: Publish) -> None:
        self._holdings = holdings
        self._publish = publish

    def event(self, node: str, name: str, data: Any) -> None:
        """Pass on an event of a node's worker, in the fleet's names."""
        told = outward(node, data)
        if name == EventName.ALLOCATION_EXPIRED:
            self._holdings.remove((told["allocation_id"],))
        elif name == EventName.DEVICE_LOST:
            self._holdings.lose(told["device_id"], told["reason"])
            self._holdings.lose_models(told["device_id"])
        elif name == EventName.MODEL_UNLOADED:
            self._holdings.unloaded(told["model_id"])
        self._publish(name, told)

    def lost(self, node: str, why: str, view: NodeView, before: str, *, again: bool = False) -> None:
        """Tell of each device of a node that is gone: what was on it, the host's allocations and all models.

        What a worker has that was started at ``before`` or later is not gone. ``again``: only where there is more to tell.
        """
        for device in view.devices:
            device_id = joined(node, device.device_id)
            shown = (each.model_id for each in view.models if each.device_id == device.device_id)
            models = sorted({*shown, *self._holdings.lose_models(device_id, before)})
            allocations = self._holdings.lose(device_id, why, before)
            if allocations or not again:
                gone = {
                    "device_id": device_id,
                    "reason": why,
                    "allocation_ids": allocations,
                    "model_ids": models,
                }
                self._publish(EventName.DEVICE_LOST, gone)

    def back(self, node: str, seconds: float, view: NodeView) -> None:
        """Tell that a node's devices are there again, empty."""
        for device in view.devices:
            back = {"device_id": joined(node, device.device_id), "lost_ms": round(seconds * 1000)}
            self._publish(EventName.DEVICE_RECOVERED, back)
