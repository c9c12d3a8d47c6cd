"""Allocations and their transfers: what requests claim, and how they are carried out."""

from collections.abc import Callable
from typing import Any

from protocol import params as p
from protocol import results as r
from protocol.vocabulary import Initialize, MemoryType, TransferType
from worker.core.clock import NS_PER_MS
from worker.core.records import AllocationRequest
from worker.instructor.binding import Claims
from worker.interface.interface_memory import MemoryInterface
from worker.stream.work import Answer, Call, Claim, Manner, Work, frees

IDS = "allocation ids"
"""Claimed by what makes ids and, exclusively, by what names one that is not known yet: it may be in the making."""


class AllocationHandlers:
    """What the actions on allocations do."""

    def __init__(self, memory: MemoryInterface) -> None:
        self._memory = memory

    def named(self, run: Callable[..., Any], _: Manner) -> Callable[[Call], Any]:
        """Give an admitted request the next allocation id; nothing else gets the id of one that fails."""
        allocation_id = self._memory.allocations.new_id()

        def run_as(call: Call) -> Any:
            try:
                return run(call, allocation_id)
            except BaseException:
                self._memory.allocations.unused_id(allocation_id)
                raise

        return run_as

    def allocate(self, params: p.AllocateParams, call: Call, allocation_id: str) -> r.AllocateResult:
        """Make an allocation."""
        request = AllocationRequest(
            device_id=self._memory.devices.one(self._asked_device(params), call.token),
            size_bytes=params.size_bytes,
            memory_type=params.memory_type,
            initialize=params.initialize,
            alignment=params.alignment,
            purpose=params.purpose,
            owner=params.owner,
            persistent=params.persistent,
            lease_ns=None if params.lease_ms is None else params.lease_ms * NS_PER_MS,
        )
        return self._memory.allocations.allocate(
            allocation_id, request, call.token, make_room=params.make_room, plan_id=params.plan_id
        )

    def _asked_device(self, params: p.AllocateParams) -> str | None:
        if params.device_id is None and params.plan_id is not None:
            return self._memory.models.planned(params.plan_id).device_id
        return params.device_id

    def claims_of_allocate(self, params: p.AllocateParams) -> Claims:
        """Claim the devices where it may go."""
        asked = self._asked_device(params)
        device_id = self._memory.devices.one(asked)
        untouched = params.initialize is Initialize.NONE or params.memory_type is MemoryType.EXTERNAL
        touched = 0 if untouched else params.size_bytes
        places = (Claim(each, exclusive=False) for each in self._memory.devices.candidates(asked))
        claims = (*places, Claim(IDS, exclusive=False))
        unloads = params.make_room or params.plan_id is not None
        return claims, not unloads and self._memory.devices.is_quick(device_id, touched)

    def deallocate(self, params: p.DeallocateParams, _: Call) -> r.DeallocateResult:
        """Free an allocation."""
        return self._memory.allocations.deallocate(params.allocation_id, force=params.force)

    def claims_of_deallocate(self, params: p.DeallocateParams) -> Claims:
        """Claim the allocation, and who makes it if that is not done."""
        allocations = self._memory.allocations
        if allocations.making(params.allocation_id):
            return (Claim(IDS, exclusive=True),), True
        if not allocations.knows(params.allocation_id):
            return (), True  # it is not, nor will it be
        device_id, size = self._memory.allocations.place_of(params.allocation_id)
        own = Claim(params.allocation_id, exclusive=True)
        claims = (own, Claim(device_id, exclusive=False), frees(device_id, after=False))
        return claims, self._memory.devices.is_quick(device_id, size)

    def renew_lease(self, params: p.RenewLeaseParams, _: Call) -> r.RenewLeaseResult:
        """Have a lease begin anew."""
        self._memory.allocations.renew(params.allocation_id, params.lease_ms * NS_PER_MS)
        return r.RenewLeaseResult(params.allocation_id, params.lease_ms)

    def claims_of_renew_lease(self, params: p.RenewLeaseParams) -> Claims:
        """Claim the allocation along with its copies."""
        if not self._memory.allocations.knows(params.allocation_id):
            return (Claim(IDS, exclusive=True),), True
        return (Claim(params.allocation_id, exclusive=False),), True  # a copy of it may go on

    # ---- transfers ----

    def transfer(self, params: p.TransferParams, call: Call, allocation_id: str) -> r.TransferResult | Answer:
        """Copy or move an allocation, or begin to."""
        opened = self._memory.transfers.open(
            params.source_allocation_id, params.destination_device_id, params.memory_type
        )
        try:
            return self._begin_transfer(params, call, allocation_id, opened)
        except BaseException as error:
            self._memory.transfers.abandon(opened.transfer_id, error)
            raise

    def _begin_transfer(
        self, params: p.TransferParams, call: Call, allocation_id: str, opened: r.TransferResult
    ) -> r.TransferResult | Answer:
        def perform(call: Call) -> r.TransferResult:
            return self._memory.transfers.perform(
                opened.transfer_id,
                allocation_id,
                params.transfer_type,
                params.memory_type,
                call.token,
                call.report,
                verify=params.verify,
            )

        if params.wait:
            return perform(call)
        later = Work(
            action="memory.transfer",
            run=perform,
            claims=self._claims_of_copy(params),
            quick=False,
            abandoned=lambda error: self._memory.transfers.abandon(opened.transfer_id, error),
        )
        return Answer(opened, background=later)

    def claims_of_transfer(self, params: p.TransferParams) -> Claims:
        """Claim both ends of a copy that is waited for."""
        if not self._memory.allocations.knows(params.source_allocation_id):
            return (Claim(IDS, exclusive=True),), not params.wait
        if not params.wait:
            return (), True  # only opened here; the copy claims for itself
        return self._claims_of_copy(params), False

    def _claims_of_copy(self, params: p.TransferParams) -> tuple[Claim, ...]:
        source, _ = self._memory.allocations.place_of(params.source_allocation_id)
        return (
            Claim(params.source_allocation_id, exclusive=params.transfer_type is TransferType.MOVE),
            Claim(source, exclusive=False),
            Claim(self._memory.devices.one(params.destination_device_id), exclusive=False),
            Claim(IDS, exclusive=False),
        )

    def get_transfer(self, params: p.GetTransferParams, _: Call) -> r.TransferResult:
        """Return a transfer as it stands."""
        return self._memory.transfers.get(params.transfer_id)
