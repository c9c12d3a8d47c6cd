"""What is known of each configured model, and where its weights are. Pure; under the manager's lock."""

import threading
from collections.abc import Iterable, Iterator

from protocol.record import Record
from protocol.results import ModelStatus
from protocol.vocabulary import FreedBy, ModelState, UnloadMode
from worker.core.clock import NS_PER_MS
from worker.core.consumers import Release
from worker.core.errors import ModelNotFoundError
from worker.core.models import AUTO_LOADER, ModelSpec, Role
from worker.core.records import EvictionCause, Footprint, Reservation
from worker.core.sure_lock import SureCondition
from worker.eviction.entry_prices import ExpectedUses
from worker.eviction.use_rate import HALF_LIFE_NS
from worker.manager.due_table import DueTable

IN_TRANSIT = frozenset({ModelState.LOADING, ModelState.UNLOADING})
"""States that end by themselves: whoever needs the model waits for that."""

COMES_BACK = "it is loaded again when it is used"
"""What is said of a model that was lost."""


class Residence(Record):
    """Where a model's weights lie, and under which name their backend has them."""

    device_id: str
    handle: str
    size_bytes: int
    """What the ledger counts."""
    actual_bytes: int
    """As the device rounds it."""
    engine: bool = False
    """Whether it is in an engine's process."""


class SettlingError(Exception):
    """What is asked for hangs on a model that comes, goes or is held: to be waited for, and asked for again."""


class ModelEntry:
    """One model."""

    def __init__(self, spec: ModelSpec, uses: ExpectedUses | None = None) -> None:
        """``uses`` are those of all models."""
        self.spec = spec
        self.next_spec: ModelSpec | None = None
        """What it is declared as by now, once it is not loaded any more."""
        self.leaving = False
        """Whether it is not declared any more, and goes once it is not loaded any more."""
        # All mutable state of a model.
        self.state = ModelState.UNLOADED if spec.refused is None else ModelState.FAILED
        self.residence: Residence | None = None
        """On its device, while loaded or on the way out."""
        self.host_copy: Residence | None = None
        """In host memory, while offloaded."""
        self.reserved_on: str | None = None
        """The device on which headroom is held for it while it is loaded."""
        self.use_noted = False
        """Whether the use that it is being loaded for was told to the strategies."""
        self.pinned = spec.pinned
        self.keep_alive_ns = spec.keep_alive_ns
        self.in_use = 0
        """Leases that code which works with it has."""
        self.holds = 0
        """Requests that check it, or have loaded it and not answered yet. A hold ends by itself, so it is no use."""
        self.load_count = self.use_count = 0
        self.loader: str | None = _named_loader(spec)
        """Where none is declared, what the file's contents say: None until they were looked at."""
        self.estimated_bytes: int | None = None
        self.state_reason: str | None = spec.refused
        """Why it can't be loaded, as far as that is known before it is asked for."""
        self.measured_bytes: int | None = None
        self.measured_process_bytes: int | None = None
        self.given_up_bytes = 0
        """What it gave back of what it took when it was loaded: it takes that again the next time."""
        self.load_ms: int | None = None
        self.restore_ms: int | None = None
        self.footprint: Footprint | None = None
        """What it takes in its engine's process, while loaded there."""
        self.most_working_bytes = 0
        """The most that it grew by in its engine's process."""
        self.last_used_ns: int | None = None
        self._uses = uses or ExpectedUses()

    @property
    def model_id(self) -> str:
        """The operator's name for it."""
        return self.spec.model_id

    @property
    def loading_bytes(self) -> int | None:
        """What loading it takes, without its working memory: measured, else from the header, else declared."""
        if self.measured_bytes is not None:
            return self.measured_bytes + self.given_up_bytes
        return self.spec.declared_bytes if self.estimated_bytes is None else self.estimated_bytes

    @property
    def known_bytes(self) -> int | None:
        """The best figure for what it takes: measured, else from the header, else declared; with its working memory."""
        size = self.loading_bytes
        return None if size is None else size + self._all_working_bytes

    @property
    def working_bytes(self) -> int:
        """What is to be kept free for it: declared beyond its tensors, or seen in an engine; less what it has of that.

        Nothing where an engine gave it back, until the model works again: it was given back because others need it.
        """
        has = 0 if self.footprint is None else self.footprint.working_bytes
        if self.footprint is not None and self.footprint.shrink_ms is not None and not self.shrinkable_bytes:
            return 0
        return max(0, self._all_working_bytes - has)

    @property
    def _all_working_bytes(self) -> int:
        declared, tensors = self.spec.declared_bytes, self.estimated_bytes
        beyond = 0 if declared is None or tensors is None else declared - tensors
        return max(0, beyond, self.most_working_bytes)

    @property
    def shrinkable_bytes(self) -> int:
        """What it can give back and stay loaded, as far as was seen."""
        return (
            0
            if self.footprint is None
            else max(0, self.footprint.working_bytes - self.footprint.shrunk_bytes)
        )

    @property
    def freed_by(self) -> FreedBy:
        """Who alone can free its weights, or the copy of them in host memory."""
        if self.spec.external:
            return FreedBy.HOST
        if self.in_use or self.pinned:
            return FreedBy.USE
        return FreedBy.OWNER if self.state is ModelState.OFFLOADED else FreedBy.WORKER

    @property
    def settling(self) -> bool:
        """Whether its state ends by itself: whoever needs it, or its memory, waits for that."""
        return self.holds > 0 or self.state in IN_TRANSIT

    @property
    def outdated(self) -> bool:
        """Whether it is declared otherwise by now, or not at all."""
        return self.leaving or self.next_spec is not None

    def declare(self, spec: ModelSpec) -> None:
        """Take another declaration over: nothing of the old one is loaded, or both load the same."""
        if _loaded_from(spec) != _loaded_from(self.spec):
            self.estimated_bytes = self.measured_bytes = self.measured_process_bytes = None
            self.most_working_bytes = self.given_up_bytes = 0
            self.state = ModelState.UNLOADED if spec.refused is None else ModelState.FAILED
            self.state_reason = spec.refused
            self.loader = _named_loader(spec)
        self.spec, self.next_spec = spec, None
        self.pinned, self.keep_alive_ns = spec.pinned, spec.keep_alive_ns

    def take_over(self, footprint: Footprint) -> int:
        """Take over what it takes in its engine's process by now. Returns by how much more that is; below 0, less."""
        before, self.footprint = self.footprint, footprint
        self.most_working_bytes = max(self.most_working_bytes, footprint.working_bytes)
        if before is None:
            return 0
        more = (footprint.loaded_bytes or 0) - (before.loaded_bytes or 0)
        if self.measured_bytes is not None:
            self.measured_bytes += more
            self.given_up_bytes -= more
        self.measured_process_bytes = footprint.process_bytes
        return more + footprint.working_bytes - before.working_bytes

    def expires_ns(self) -> int | None:
        """Return when it will have been idle for its keep-alive; None where that never ends."""
        if self.outdated and self.state is ModelState.LOADED and not self.in_use and not self.spec.external:
            return self.last_used_ns or 0
        idle = self.state is ModelState.LOADED and not self.in_use and not self.pinned
        if not idle or self.keep_alive_ns is None or self.last_used_ns is None:
            return None
        return self.last_used_ns + self.keep_alive_ns

    def expired(self, now_ns: int) -> bool:
        """Tell whether it has been idle past its keep-alive."""
        due = self.expires_ns()
        return due is not None and due <= now_ns and not self.holds

    def used(self, now_ns: int) -> None:
        """Count a use."""
        self.use_count += 1
        self.last_used_ns = now_ns
        self._uses.used(self.model_id, now_ns)

    def expected_uses(self, now_ns: int) -> float:
        """Return how many uses are expected in the next ten minutes, or before it would go for being idle."""
        due = self.expires_ns()
        within_ns = HALF_LIFE_NS if due is None else min(HALF_LIFE_NS, due - now_ns)
        return self._uses.within(self.model_id, now_ns, within_ns)

    def status(self, now_ns: int) -> ModelStatus:
        """Return it as it is listed."""
        due = self.expires_ns()
        place, footprint = self.residence or self.host_copy, self.footprint
        return ModelStatus(
            model_id=self.model_id,
            state=self.state,
            state_reason=self.state_reason,
            device_id=place.device_id if place is not None else self.spec.device_id,
            loader=self.loader,
            declared_bytes=self.spec.declared_bytes,
            estimated_bytes=self.estimated_bytes,
            measured_bytes=self.measured_bytes,
            measured_process_bytes=self.measured_process_bytes,
            working_bytes=None if footprint is None else footprint.working_bytes,
            kv_bytes=None if footprint is None else footprint.kv_bytes,
            kv_bytes_per_token=None if footprint is None else footprint.kv_bytes_per_token,
            pinned=self.pinned,
            priority=self.spec.priority,
            in_use=self.in_use,
            load_count=self.load_count,
            use_count=self.use_count,
            load_ms=self.load_ms,
            last_used_ms_ago=None if self.last_used_ns is None else (now_ns - self.last_used_ns) // NS_PER_MS,
            keep_alive_ms=None if self.keep_alive_ns is None else self.keep_alive_ns // NS_PER_MS,
            expires_in_ms=None if due is None else max(0, due - now_ns) // NS_PER_MS,
        )


def _named_loader(spec: ModelSpec) -> str | None:
    return None if spec.loader == AUTO_LOADER else spec.loader


def _loaded_from(spec: ModelSpec) -> ModelSpec:
    """Return what of a declaration makes a difference to what is loaded."""
    return ModelSpec(
        spec.model_id, spec.loader, spec.path, spec.model_root, spec.dtype, spec.device_id,
        factory=spec.factory, placement=spec.placement, refused=spec.refused, more_paths=spec.more_paths,
        params=spec.params, engine_group=spec.engine_group,
    )  # fmt: skip


class Declared(Record):
    """What is declared otherwise than before, by id."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


class PendingEviction(Record):
    """A model on its way out: no one can reach it any more. What it gives up, and why."""

    entry: ModelEntry
    residence: Residence
    reason: str
    reload_ms: int | None
    last_sample: int
    cause: EvictionCause
    mode: UnloadMode = UnloadMode.UNLOAD
    host_reservation: Reservation | None = None
    """Headroom held in host memory, where it is offloaded."""


class EvictingReservation(Record):
    """Headroom that is held, and what has to go before it is there."""

    reservation: Reservation
    evictions: tuple[PendingEviction, ...]

    @property
    def handle(self) -> str:
        """The name under which the backend is to have what is made in it."""
        return self.reservation.allocation_id


class ReleasesToMake(Record):
    """Headroom that is not there unless consumers give these back, and devices show it."""

    releases: tuple[Release, ...]


class ModelTable:
    """All configured models, in the operator's order. Empty until something asks for models."""

    def __init__(self, lock: threading.RLock, due: DueTable) -> None:
        self.changed = SureCondition(lock)
        """Notified when a model came, went or was released: its lock is the manager's."""
        self._due = due
        # All mutable state.
        self._uses = ExpectedUses()
        self._entries: dict[str, ModelEntry] = {}
        self._aliases: dict[str, str] = {}
        self._roles: dict[str, Role] = {}
        self._refused_roles: dict[str, Role] = {}
        self._lost: list[tuple[ModelEntry, Residence]] = []

    def add(self, spec: ModelSpec) -> None:
        """Add a configured model, unloaded."""
        with self.changed:
            self._entries[spec.model_id] = ModelEntry(spec, self._uses)
            self._aliases |= dict.fromkeys(spec.aliases, spec.model_id)

    def add_role(self, role: Role) -> None:
        """Add a name for what a model is for; it is valid wherever a model's id is. One that is refused is noted alone."""
        with self.changed:
            if role.refused is not None:
                self._refused_roles[role.name] = role
                return
            self._roles[role.name] = role
            self._aliases[role.name] = self.resolve(role.model_id)

    @property
    def refused_roles(self) -> tuple[Role, ...]:
        """The roles that stand for nothing, in the operator's order, each with the reason."""
        return tuple(self._refused_roles.values())

    def resolve(self, name: str) -> str:
        """Return the id of the model that an alias or a role stands for; any other name as it is."""
        return name if name in self._entries else self._aliases.get(name, name)

    def fallbacks(self, name: str) -> Iterator[str]:
        """Return what is used instead, in this order: a role's own, or the model's, that one's, and so on."""
        role = self._roles.get(name)
        if role is not None:
            yield from map(self.resolve, role.fallbacks)
            return
        at = self.get(name).spec.fallback
        while at is not None:
            yield self.resolve(at)
            at = self.get(at).spec.fallback

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, model_id: str) -> ModelEntry:
        """Return a model. ModelNotFoundError for one that is not configured."""
        entry = self._entries.get(self.resolve(model_id))
        if entry is None:
            known = [*self._entries, *self._roles]
            there = f"there are {', '.join(known)}" if known else "none are configured"
            refused = self._refused_roles.get(model_id)
            why = there if refused is None or refused.refused is None else f"it {refused.refused}"
            message = f"no model {model_id!r}: {why}"
            raise ModelNotFoundError(message, model_id=model_id, known_models=known)
        return entry

    def on_device(self, device_id: str) -> tuple[ModelEntry, ...]:
        """Return the models whose weights, or a copy of them, take memory on a device."""
        return tuple(
            entry
            for entry in self
            if any(place and place.device_id == device_id for place in (entry.residence, entry.host_copy))
        )

    def settling(self, device_id: str) -> bool:
        """Tell whether what a device can give will change by itself: a model comes, goes or is held there."""
        return any(
            entry.reserved_on == device_id
            or (entry.settling and entry.residence is not None and entry.residence.device_id == device_id)
            for entry in self
        )

    def take_lost(self) -> list[tuple[ModelEntry, Residence]]:
        """Return the models that went with their device since this was last asked, and where they were."""
        found, self._lost = self._lost, []
        return found

    def declare(self, specs: Iterable[ModelSpec], roles: Iterable[Role]) -> "Declared":
        """Take another list of models over. What is loaded otherwise than declared by now is outdated until it goes."""
        added, changed, removed, kept = list[str](), list[str](), list[str](), list[str]()
        with self.changed:
            before, now = self._entries, dict[str, ModelEntry]()
            for spec in specs:
                entry = before.get(spec.model_id)
                if entry is None:
                    now[spec.model_id] = ModelEntry(spec, self._uses)
                    if spec.refused is None:
                        added.append(spec.model_id)
                    continue
                now[spec.model_id] = entry
                if spec.refused is not None and entry.spec.refused is None:
                    continue  # what was good stays as it was
                entry.leaving = False
                (kept if spec == entry.spec else changed).append(spec.model_id)
                entry.next_spec = None if spec == entry.spec else spec
            for model_id, entry in before.items():
                if model_id not in now and entry.spec.server is not None:
                    now[model_id] = entry  # it was never declared: its server has it
                elif model_id not in now:
                    entry.leaving = True
                    now[model_id] = entry
                    removed.append(model_id)
            self._entries = now
            self._aliases = {
                alias: each.model_id for each in self for alias in (each.next_spec or each.spec).aliases
            }
            self._roles, self._refused_roles = {}, {}
            for role in roles:
                self.add_role(role)
            for entry in tuple(now.values()):
                self.settle(entry)
        return Declared(tuple(added), tuple(changed), tuple(removed), tuple(kept))

    def forgive(self, model_ids: Iterable[str]) -> None:
        """Have models be tried again that failed."""
        with self.changed:
            for each in model_ids:
                entry = self._entries.get(each)
                if entry is not None and entry.state is ModelState.FAILED and entry.spec.refused is None:
                    entry.state, entry.state_reason = ModelState.UNLOADED, None

    def settle(self, entry: ModelEntry) -> None:
        """Have an outdated model be what it is declared as by now, if nothing of it is loaded, or what is, is the same."""
        gone = entry.residence is None and entry.host_copy is None and entry.state not in IN_TRANSIT
        if entry.leaving and gone:
            self._entries = {key: each for key, each in self._entries.items() if each is not entry}
        elif entry.next_spec is not None and (
            gone or _loaded_from(entry.next_spec) == _loaded_from(entry.spec)
        ):
            entry.declare(entry.next_spec)
            self.watch_idle(entry)

    def watch_idle(self, entry: ModelEntry) -> None:
        """Note when a model will have been idle for too long; of one that is held, when it is let go."""
        self._due.set_idle(entry.model_id, None if entry.holds else entry.expires_ns())

    def lose(self, device_id: str, why: str) -> tuple[str, ...]:
        """Note that models went with their device, and why that went. Returns which."""
        lost = []
        with self.changed:
            for entry in self.on_device(device_id):
                place = entry.residence
                if place is None or place.device_id != device_id or entry.spec.external:
                    continue  # of an external model, its owner knows what became of it
                entry.residence, entry.footprint, entry.in_use, entry.holds = None, None, 0, 0
                entry.state = ModelState.UNLOADED
                entry.state_reason = f"{device_id} was lost, and the model with it: {why}; {COMES_BACK}"
                self.watch_idle(entry)
                lost.append(entry.model_id)
                self._lost.append((entry, place))
            self.changed.notify_all()
        return tuple(lost)

    def lose_weights(self, handles: frozenset[str], why: str) -> "list[tuple[ModelEntry, Residence]]":
        """Note that models went with the engine's process that they were in. Returns which; one on its way out is none.

        The lock is held.
        """
        lost = []
        for entry in self:
            place = entry.residence
            if place is None or place.handle not in handles or entry.state is ModelState.UNLOADING:
                continue
            entry.residence, entry.footprint, entry.in_use, entry.holds = None, None, 0, 0
            entry.state, entry.state_reason = ModelState.UNLOADED, why
            self.watch_idle(entry)
            lost.append((entry, place))
        return lost

    def whose(self, handles: frozenset[str]) -> tuple[str, ...]:
        """Return the models whose weights these are. The lock is held."""
        places = ((each.model_id, each.residence) for each in self)
        return tuple(model_id for model_id, place in places if place is not None and place.handle in handles)
