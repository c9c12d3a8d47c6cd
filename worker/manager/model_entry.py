"""What is known of one configured model, and where its weights are. Pure; under the manager's lock."""

from protocol.record import Record
from protocol.results import ModelStatus
from protocol.vocabulary import FileLocation, FreedBy, ModelState
from worker.core.clock import NS_PER_MS
from worker.core.models import AUTO_LOADER, ModelSpec
from worker.core.records import Footprint
from worker.eviction.entry_prices import ExpectedUses
from worker.eviction.use_rate import HALF_LIFE_NS

IN_TRANSIT = frozenset({ModelState.LOADING, ModelState.UNLOADING})
"""States that end by themselves: whoever needs the model waits for that."""


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
        self.names: tuple[str, ...] = ()
        """What else it is called: aliases, and roles that it is for."""
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
        self.file_location: FileLocation | None = None
        """Where its file was found when it was last looked at."""
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
        if loaded_from(spec) != loaded_from(self.spec):
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
            names=self.names,
            state=self.state,
            state_reason=self.state_reason,
            file_location=self.file_location,
            device_id=place.device_id if place is not None else self.reserved_on or self.spec.device_id,
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


def loaded_from(spec: ModelSpec) -> ModelSpec:
    """Return what of a declaration makes a difference to what is loaded."""
    return ModelSpec(
        spec.model_id, spec.loader, spec.path, spec.model_root, spec.dtype, spec.device_id,
        factory=spec.factory, placement=spec.placement, refused=spec.refused, more_paths=spec.more_paths,
        params=spec.params, engine_group=spec.engine_group,
    )  # fmt: skip
