"""The handlers of the consumers' actions, wire to records and back. Whatever they say is answered at once.

What they say of one counts in turn, and after the frees that were sent before it: else that memory was given back would be
heard before it was.
"""

from protocol import params as p
from protocol import results as r
from worker.core.clock import NS_PER_MS
from worker.core.consumers import Offer
from worker.core.records import HOST
from worker.instructor.binding import Claims
from worker.interface.interface_memory import MemoryInterface
from worker.manager.consumer_table import Registration
from worker.stream.work import Call, frees

_NO_KIND = "host"
"""The kind of a consumer whose host does not say."""


class ConsumerHandlers:
    """What the instructor binds to the consumers' actions."""

    def __init__(self, memory: MemoryInterface) -> None:
        self._memory = memory

    def register(self, params: p.RegisterConsumerParams, _: Call) -> r.RegisterConsumerResult:
        """Take over what a host says of a consumer."""
        said = Registration(
            consumer_id=params.consumer_id,
            kind=params.kind or _NO_KIND,
            device_id=self._memory.devices.one(params.device_id or HOST),
            held_bytes=params.held_bytes,
            floor_bytes=params.floor_bytes,
            offers=tuple(Offer(each.bytes, each.cost_ms, "", divisible=True) for each in params.offers),
            hits=params.hits,
            misses=params.misses,
            saved_ms=params.saved_ms,
            owner=params.owner,
            lease_ns=None if params.lease_ms is None else params.lease_ms * NS_PER_MS,
        )
        created, limit = self._memory.consumers.register(said)
        return r.RegisterConsumerResult(params.consumer_id, created, limit)

    def released(self, params: p.ReleasedParams, _: Call) -> r.ReleasedResult:
        """Take a host's word that memory was given back."""
        held, limit = self._memory.consumers.released(params.consumer_id, params.bytes)
        return r.ReleasedResult(params.consumer_id, held, limit)

    def claims_in_turn(
        self, params: p.RegisterConsumerParams | p.ReleasedParams | p.UnregisterConsumerParams
    ) -> Claims:
        """Claim to be after what is being freed on the consumer's device, by which its word is judged; and after that word."""
        device_id = self._memory.consumers.device_of(params.consumer_id)
        return () if device_id is None else (frees(device_id, after=True),), True

    def unregister(self, params: p.UnregisterConsumerParams, _: Call) -> r.UnregisterConsumerResult:
        """Forget a consumer."""
        return r.UnregisterConsumerResult(
            params.consumer_id, self._memory.consumers.unregister(params.consumer_id)
        )

    def get_consumers(self, params: p.GetConsumersParams, _: Call) -> r.GetConsumersResult:
        """Answer with all consumers."""
        devices = self._memory.devices.ids(params.device_id)
        return r.GetConsumersResult(self._memory.consumers.status(devices, params.kind))
