"""Models that go: pending evictions, with headroom in host memory for what is offloaded, and what is left of them.

Pure, under the manager's lock, as ``manager/models.py`` says.
"""

from protocol.vocabulary import ModelState, UnloadMode
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import ModelBusyError, UnsupportedError
from worker.core.records import HOST, AllocationRequest, EvictionCause
from worker.eviction.planner import Victim
from worker.manager.eviction_memory import ModelMemories
from worker.manager.eviction_plans import EvictionPlans
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import ModelEntry, Residence
from worker.manager.model_table import PendingEviction, SettlingError


class Evictions:
    """Puts models out of reach, and notes that they have left their device."""

    def __init__(
        self, manager: MemoryManager, clock: Clock, memories: ModelMemories, plans: EvictionPlans
    ) -> None:
        self._manager = manager
        self._table = manager.models
        self._changed = manager.models.changed
        self._clock = clock
        self._memories = memories
        self._plans = plans

    def begin_once_settled(
        self, model_id: str, reason: str, *, forced: bool = False, mode: UnloadMode = UnloadMode.UNLOAD
    ) -> PendingEviction | None:
        """Begin an eviction, once the model does not come, go or is held, nor one whose going would give it a place."""
        with self._changed:
            entry = self._table.get(model_id)
            if entry.settling or (mode is UnloadMode.OFFLOAD and self._blocks_offload(entry)):
                raise SettlingError
            return self.begin(model_id, reason, forced=forced, mode=mode)

    def begin(
        self, model_id: str, reason: str, *, forced: bool = False, mode: UnloadMode = UnloadMode.UNLOAD,
        cause: EvictionCause = EvictionCause.ASKED,
    ) -> PendingEviction | None:  # fmt: skip
        """Put a model out of reach, to unload or shrink it; None if it is not loaded.

        ModelBusyError if it is in use, or pinned, neither forced nor only to shrink; OutOfMemoryError where it is to
        be offloaded and host memory has no headroom; UnsupportedError where it can't be offloaded.
        """
        with self._changed:
            entry = self._table.get(model_id)
            if entry.state is not ModelState.LOADED or entry.residence is None:
                return None
            leases = entry.in_use + entry.holds
            if leases or (entry.pinned and not forced and mode is not UnloadMode.SHRINK):
                why = f"in use by {leases} {'lease' if leases == 1 else 'leases'}" if leases else "pinned"
                message = f"model {model_id!r} is {why}"
                raise ModelBusyError(message, model_id=model_id, cause="in_use" if leases else "pinned")
            place, back, size = entry.residence, entry.load_ms, entry.residence.size_bytes
            if mode is UnloadMode.OFFLOAD:
                if place.engine or place.device_id == HOST:
                    engine = "in an engine's process: it can be shrunk, or unloaded"
                    host = "in host memory: there is nowhere to offload it to"
                    message = f"model {model_id!r} is {engine if place.engine else host}"
                    raise UnsupportedError(message, model_id=model_id, device_id=place.device_id)
                back = entry.restore_ms
            elif mode is UnloadMode.SHRINK:
                back, size = 0, entry.shrinkable_bytes
            victim = Victim(model_id, size, mode, back, reason)
            return self.begin_for(victim, cause)

    def begin_for(self, victim: Victim, cause: EvictionCause) -> PendingEviction:
        """Put a loaded model out of reach, as a plan has it; the lock is held. OutOfMemoryError as ``begin``."""
        entry = self._table.get(victim.model_id)
        residence = entry.residence
        if residence is None:
            raise AssertionError(victim)
        entry.state = ModelState.UNLOADING
        held = None
        if victim.mode is UnloadMode.OFFLOAD:
            request = AllocationRequest(HOST, residence.size_bytes)
            if self._manager.pressure.missing_bytes(HOST, residence.size_bytes):
                entry.state = ModelState.LOADED
                raise self._plans.does_not_fit(request)
            held = self._manager.allocations.hold(request, self._manager.weights.new_handle())
        self._table.watch_idle(entry)
        last_sample = self._manager.weights.last_sample(residence.device_id)
        return PendingEviction(
            entry, residence, victim.reason, victim.reload_ms, last_sample, cause, victim.mode, held
        )

    def expired_after_ms(self, model_id: str) -> int | None:
        """Return the keep-alive that a model has been idle past; None if it has not, and then it is watched on."""
        with self._changed:
            entry = self._table.get(model_id)
            if not entry.expired(self._clock.now_ns()):
                self._table.watch_idle(entry)
                return None
            return (entry.keep_alive_ns or 0) // NS_PER_MS

    def shrunk(self, eviction: PendingEviction) -> None:
        """Have a model be in reach again that has given back what it kept beside itself."""
        entry = eviction.entry
        with self._changed:
            if entry.residence is not None and entry.residence.handle == eviction.residence.handle:
                entry.state = ModelState.LOADED
            self._table.watch_idle(entry)
            self._changed.notify_all()

    def evicted(self, eviction: PendingEviction, host_copy: Residence | None) -> None:
        """Note that a model whose eviction was pending has left its device."""
        entry, residence, held = eviction.entry, eviction.residence, eviction.host_reservation
        with self._changed:
            self._manager.weights.remove(residence.device_id, residence.handle, eviction.last_sample)
            if held is not None and host_copy is None:
                self._manager.allocations.release(held)
            elif held is not None and host_copy is not None:
                size, actual = host_copy.size_bytes, host_copy.actual_bytes
                self._manager.weights.add(held, host_copy.handle, size, actual)
            entry.host_copy = host_copy
            if entry.residence is not None and entry.residence.handle == residence.handle:
                entry.residence, entry.footprint = None, None
                entry.state = ModelState.UNLOADED if host_copy is None else ModelState.OFFLOADED
            self._memories.evicted(entry, residence, eviction.cause, eviction.reason)
            self._table.settle(entry)
            self._changed.notify_all()

    def drop_host_copy(self, entry: ModelEntry) -> Residence | None:
        """Remove an offloaded copy: it was brought back, or is given up. Its backend still has it."""
        with self._changed:
            if entry.state is ModelState.LOADING:
                return None  # it is being brought back from there
            copy, entry.host_copy = entry.host_copy, None
            if copy is not None:
                last_sample = self._manager.weights.last_sample(copy.device_id)
                self._manager.weights.remove(copy.device_id, copy.handle, last_sample)
                if entry.state is ModelState.OFFLOADED:
                    entry.state = ModelState.UNLOADED
                self._changed.notify_all()
            return copy

    def _blocks_offload(self, entry: ModelEntry) -> bool:
        """Tell whether host memory has no headroom for a model yet, and a model comes, goes or is held there."""
        size = 0 if entry.residence is None else entry.residence.size_bytes
        return self._table.settling(HOST) and self._manager.pressure.missing_bytes(HOST, size) > 0
