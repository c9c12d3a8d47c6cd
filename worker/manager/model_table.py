"""All configured models, and what is promised of them. Pure; under the manager's lock."""

import threading
from collections.abc import Iterable, Iterator

from protocol.record import Record
from protocol.vocabulary import ModelState, UnloadMode
from worker.core.consumers import Release
from worker.core.errors import ModelNotFoundError
from worker.core.models import ModelSpec, Role
from worker.core.records import EvictionCause, Reservation
from worker.core.sure_lock import SureCondition
from worker.eviction.entry_prices import ExpectedUses
from worker.manager.due_table import DueTable
from worker.manager.model_entry import IN_TRANSIT, ModelEntry, Residence, loaded_from
from worker.manager.plan_table import PlannedVictim

COMES_BACK = "it is loaded again when it is used"
"""What is said of a model that was lost."""


class SettlingError(Exception):
    """What is asked for hangs on a model that comes, goes or is held: to be waited for, and asked for again."""


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
    victims: tuple[PlannedVictim, ...]
    """The models that are to go then."""


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
            self._name(spec.model_id, *spec.aliases)

    def add_role(self, role: Role) -> None:
        """Add a name for what a model is for; it is valid wherever a model's id is. One that is refused is noted alone."""
        with self.changed:
            if role.refused is not None:
                self._refused_roles[role.name] = role
                return
            self._roles[role.name] = role
            self._name(self.resolve(role.model_id), role.name)

    def _name_anew(self, roles: Iterable[Role]) -> None:
        self._aliases, self._roles, self._refused_roles = {}, {}, {}
        for each in self:
            each.names = ()
            self._name(each.model_id, *(each.next_spec or each.spec).aliases)
        for role in roles:
            self.add_role(role)

    def _name(self, model_id: str, *names: str) -> None:
        """Have names stand for a model."""
        self._aliases |= dict.fromkeys(names, model_id)
        if model_id in self._entries:
            self._entries[model_id].names += names

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
        entry = self.find(model_id)
        if entry is None:
            known = [*self._entries, *self._roles]
            there = f"there are {', '.join(known)}" if known else "none are configured"
            refused = self._refused_roles.get(model_id)
            why = there if refused is None or refused.refused is None else f"it {refused.refused}"
            message = f"no model {model_id!r}: {why}"
            raise ModelNotFoundError(message, model_id=model_id, known_models=known)
        return entry

    def find(self, model_id: str) -> ModelEntry | None:
        """Return a model; None for one that is not configured, or not any more."""
        return self._entries.get(self.resolve(model_id))

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
            self._name_anew(roles)
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
            gone or loaded_from(entry.next_spec) == loaded_from(entry.spec)
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
                self.settle(entry)
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
