"""Every consumer of memory: what it offers now, and having it give that back. What counts is what devices show after it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from typing import Protocol, runtime_checkable

from protocol.results import ConsumerStatus, ReleasedMemory, UnloadedModel
from protocol.vocabulary import PressureLevel
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.consumers import (
    EXTERNAL,
    OWN_PREFIXES,
    POOL,
    Consumer,
    CountingConsumer,
    Holding,
    LimitedConsumer,
    Offer,
    Quote,
    Release,
    Usage,
)
from worker.core.errors import (
    CancelledError,
    ConsumerNotFoundError,
    DeadlineExceededError,
    DeviceUnavailableError,
    InvalidRequestError,
)
from worker.core.events import ConsumerLimitChanged, ReleaseRequested
from worker.core.log import log
from worker.core.records import HOST
from worker.core.sure_lock import SureLock
from worker.manager.consumer_table import Registration
from worker.policy.holders import HeldConsumer
from worker.policy.pressure import SEVERITY, for_others
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.gone import Gone
from worker.workers.questions import Answers, Questions, silence

Source = Callable[[str | None], Iterable[Consumer]]
"""Returns the consumers of one kind on a device, or on all."""


@runtime_checkable
class AskedConsumer(Consumer, Protocol):
    """A consumer whose owner, outside this process, is asked by an event, and answers with its word."""

    @property
    def unheard(self) -> str | None:
        """Why asking is no use now; None where it is some."""
        ...

    def ask(self, size_bytes: int, reason: str, wait_ms: int) -> None:
        """Ask for so much. Does not wait."""
        ...


class _HostConsumer:
    """A registered consumer, as all others."""

    unheard = None

    def __init__(self, worker: "ConsumerWorker", quote: Quote) -> None:
        self._worker = worker
        self._quote = quote
        self.consumer_id, self.kind, self.device_id = quote.consumer_id, quote.kind, quote.device_id

    def holding(self) -> Holding:
        return self._quote.holding

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return self._quote.offers

    def ask(self, size_bytes: int, reason: str, wait_ms: int) -> None:
        self._worker.request(self.consumer_id, size_bytes, reason, wait_ms)

    def release(self, _offer: Offer, _token: CancelToken) -> int:
        raise TypeError(self.consumer_id)


class ConsumerWorker:
    """All consumers but the worker's own models, which go by plan (``model_unload``)."""

    def __init__(self, core: Core, monitor: DeviceMonitor, questions: Questions) -> None:
        self._core = core
        self._table = core.manager.consumers
        self._manager = core.manager
        self._monitor = monitor
        self.questions = questions
        self._clock = core.clock
        self._lock = SureLock()
        # All mutable state: where consumers of this process come from, and those that plugins added.
        self._sources: tuple[Source, ...] = ()
        self._listed: tuple[Source, ...] = ()
        self._added: dict[str, Consumer] = {}

    # ---- which there are ----

    def add_source(self, source: Source) -> None:
        """Have consumers of a kind take part, whichever there are at the time."""
        with self._lock:
            self._sources = (*self._sources, source)

    def add_listed(self, source: Source) -> None:
        """Have consumers of a kind be listed, which go by a plan of their own."""
        with self._lock:
            self._listed = (*self._listed, source)

    def add(self, consumer: Consumer) -> None:
        """Have a consumer take part. ValueError for a name that another has, or that is of the worker's own."""
        consumer_id = consumer.consumer_id
        self._manager.devices.info(consumer.device_id)
        with self._lock:
            known = consumer_id in self._added or self._table.knows(consumer_id)
            if known or consumer_id.startswith(OWN_PREFIXES):
                why = (
                    "registered already"
                    if known
                    else f"of the worker's own: {', '.join(OWN_PREFIXES)} begin these"
                )
                raise ValueError(f"the consumer {consumer_id!r} is {why}")
            self._added[consumer_id] = consumer

    def remove(self, consumer_id: str) -> None:
        """Have a consumer that was added take part no more; nothing happens to one that was not."""
        with self._lock:
            self._added.pop(consumer_id, None)

    def quotes(self, device_id: str | None = None, need_bytes: int = 0) -> tuple[Quote, ...]:
        """Return what all of them offer on a device, or on all. Without any lock: what it calls may be slow."""
        return tuple(quote for _, quote in self._quoted(device_id, need_bytes))

    def held_here(self, device_id: str) -> tuple[HeldConsumer, ...]:
        """Return what consumers that were added hold in this process beside the ledger: nothing on other devices."""
        if device_id != HOST:
            return ()
        with self._lock:
            added = tuple(self._added.values())
        here = (each for each in added if each.device_id == device_id and not _is_allocated(each))
        held = ((each, self._held_bytes(each)) for each in here)
        return tuple(HeldConsumer(each.consumer_id, each.kind, size) for each, size in held if size)

    def status(self, device_ids: tuple[str, ...], kind: str | None) -> tuple[ConsumerStatus, ...]:
        """Return the consumers of these devices as they are listed: models, then pools and all others, the host's last."""
        here = (each for source in self._listed for each in source(None))
        rows = [
            self._table.status(quote, self._usage(each))
            for each, quote in self._quotes_of((*here, *self._here(None)))
        ]
        rows += [self._table.status(each) for each in self._table.quotes()]
        return tuple(row for row in rows if row.device_id in device_ids and kind in {None, row.kind})

    # ---- what hosts say ----

    def register(self, said: Registration) -> tuple[bool, int | None]:
        """Take over what a host says of a consumer. Returns whether it is new, and its limit. InvalidRequestError."""
        if said.consumer_id.startswith(OWN_PREFIXES) or said.consumer_id in self._added:
            message = f"{said.consumer_id!r} is the name of one of the worker's own consumers"
            raise InvalidRequestError.at("data.consumer_id", message)
        return self._table.register(said)

    def released(self, consumer_id: str, size_bytes: int) -> tuple[int, int | None]:
        """Take a host's word that so much was given back. Returns what it holds then, and its limit."""
        held = self._table.released(consumer_id, size_bytes)
        if not self.questions.answer(consumer_id, size_bytes):
            self._table.heard(consumer_id)
        return held

    def unregister(self, consumer_id: str) -> bool:
        """Forget a consumer of the host's; whoever waits for it does not any longer."""
        existed = self._table.unregister(consumer_id)
        self.questions.answer(consumer_id, 0)
        return existed

    def request(self, consumer_id: str, size_bytes: int, reason: str, wait_ms: int) -> None:
        """Ask a host for memory; nothing happens where it unregistered the consumer meanwhile."""
        try:
            held = self._table.held_bytes(consumer_id)
            limit = self._table.lower_limit(consumer_id, held, size_bytes)
        except ConsumerNotFoundError:
            self.questions.answer(consumer_id, 0)
            return
        self._core.events.publish(ReleaseRequested(consumer_id, size_bytes, limit, reason, wait_ms))

    def tend(self, device_id: str) -> None:
        """Keep consumers from growing while a device is under high pressure, and raise their limits once it is calm.

        What is short only below a cap of the worker's own is no concern of theirs.
        """
        level = self._manager.pressure.level_for_others(device_id)
        tight = SEVERITY[level] >= SEVERITY[PressureLevel.HIGH]
        spare = 0 if tight else self._spare_bytes(device_id)
        for consumer_id, held, tell in self._limited(device_id):
            before = self._table.limit(consumer_id)
            if tight and (before is None or before > held):
                why = f"{device_id} is under {level} pressure: it is not to grow"
                tell(self._table.lower_limit(consumer_id, held, 0), why)
                continue
            changed, limit = self._table.raise_limit(consumer_id, level, spare)
            if changed:
                spare = max(0, spare - (0 if limit is None else limit - (before or 0)))
                tell(limit, f"{device_id} has headroom again")

    def _limited(self, device_id: str) -> Iterator[tuple[str, int, Callable[[int | None, str], None]]]:
        """Return the consumers that are told of a limit, what each holds, and what tells it."""
        for host in self._table.all(device_id):
            said = host.said
            yield said.consumer_id, said.held_bytes, partial(self._tell_limit, said.consumer_id)
        for consumer in self._here(device_id):
            if isinstance(consumer, LimitedConsumer) and (held := self._held_bytes(consumer)) is not None:
                yield consumer.consumer_id, held, partial(self._limit, consumer)

    def _tell_limit(self, consumer_id: str, limit_bytes: int | None, reason: str) -> None:
        self._core.events.publish(ConsumerLimitChanged(consumer_id, limit_bytes, reason))

    def _limit(self, consumer: LimitedConsumer, limit_bytes: int | None, reason: str) -> None:
        try:
            consumer.limit_changed(limit_bytes, reason)
        except Exception as error:  # noqa: BLE001 - an operator's code
            self._failed(consumer, error)

    def _spare_bytes(self, device_id: str) -> int:
        """Return what can be used of a device before its pressure is moderate; 0 where that can't be told."""
        headroom = for_others(self._manager.pressure.headroom(device_id))
        if headroom.budget_bytes is None or headroom.pressure_percentage is None:
            return 0
        moderate = self._manager.devices.limits(device_id).thresholds.moderate
        return max(0, int(headroom.budget_bytes * (moderate - headroom.pressure_percentage) / 100))

    # ---- having them give back ----

    def release(
        self, releases: Iterable[Release], device_id: str, why: str, token: CancelToken, gone: Gone,
        within_ns: int | None = None,
    ) -> dict[str, str]:  # fmt: skip
        """Have consumers give back what a plan takes of them, the cheapest first; adds what they did. ``why`` is told them.

        Returns of which nothing more is to be had now, and why. Those of this process give back one after the other;
        owners elsewhere are asked all at once, and waited for. The device is read after each, so that what came back is
        each one's own. Raises what the token raises.
        """
        consumers = {each.consumer_id: each for each, _ in self._quoted(device_id, 0)}
        asked: list[tuple[AskedConsumer, Release]] = []
        refused: dict[str, str] = {}
        for each in releases:
            consumer = consumers.get(each.consumer_id)
            if consumer is None:
                refused[each.consumer_id] = "it is not there any more"
            elif isinstance(consumer, AskedConsumer):
                asked.append((consumer, each))
            else:
                self._release_here(consumer, each, token, gone, refused)
        if asked:
            self._ask(asked, device_id, why, token, self.questions.wait_ns(token, within_ns), gone, refused)
        return refused

    def _release_here(
        self, consumer: Consumer, wanted: Release, token: CancelToken, gone: Gone, refused: dict[str, str]
    ) -> None:
        before = self._free_bytes(consumer.device_id)
        within = CancelToken(self._clock.now_ns, self._clock.now_ns() + self.questions.wait_ns(token))
        claimed = 0
        with token.telling(within.cancel):
            for offer in wanted.offers:
                try:
                    claimed += max(0, consumer.release(offer, within))
                except (CancelledError, DeadlineExceededError):
                    refused[consumer.consumer_id] = "it did not give it back in time"
                    break
                except Exception as error:  # noqa: BLE001 - an operator's code
                    self._failed(consumer, error)
                    refused[consumer.consumer_id] = f"it failed: {error!r}"
                    break
        if claimed <= 0:
            refused.setdefault(consumer.consumer_id, "it gave nothing back")
        returned = _gain(before, self._free_bytes(consumer.device_id), claimed)
        self._table.note(consumer.consumer_id, claimed, returned)
        gone.released.append(_row(wanted, claimed, returned))
        if isinstance(consumer, LimitedConsumer):
            self._lower(consumer, wanted.reason)
        token.check()

    def _lower(self, consumer: LimitedConsumer, reason: str) -> None:
        """Keep a consumer that gave back from taking it again at once."""
        held = self._held_bytes(consumer)
        if held is not None:
            self._limit(consumer, self._table.lower_limit(consumer.consumer_id, held, 0), reason)

    def _ask(
        self, asked: list[tuple[AskedConsumer, Release]], device_id: str, why: str, token: CancelToken, wait_ns: int,
        gone: Gone, refused: dict[str, str],
    ) -> None:  # fmt: skip
        wanted = {each.consumer_id: each for _, each in asked}
        seen = self._free_bytes(device_id)

        def send() -> None:
            for consumer, each in asked:
                reason = why if each.kind == EXTERNAL else f"{why}; {each.reason}"
                consumer.ask(each.bytes, reason, wait_ns // NS_PER_MS)

        def answered(new: Answers) -> None:
            nonlocal seen
            now = self._free_bytes(device_id)
            claims = {each: _claimed(said) for each, said in new.items()}
            together = sum(claims.values())
            gain = _gain(seen, now, together)
            for consumer_id, said in new.items():
                claimed = claims[consumer_id]
                # Of those whose words came together, each has its share.
                returned = None if gain is None else gain * claimed // (together or 1)
                self._table.note(consumer_id, claimed, returned)
                if isinstance(said, UnloadedModel):
                    gone.unloaded.append(said)
                elif isinstance(said, str):
                    refused[consumer_id] = said
                else:
                    gone.released.append(_row(wanted[consumer_id], claimed, returned))
                    if not claimed:
                        refused[consumer_id] = "it gave nothing back"
            # What is there beyond these words is left to those that are still to come: it may have gone before its word.
            seen = now if gain is None or seen is None else min(now or 0, seen + gain)

        answers = self.questions.ask(wanted, send, token, wait_ns, answered)
        for consumer_id in wanted.keys() - answers.keys():
            if wanted[consumer_id].kind == EXTERNAL:
                refused[consumer_id] = silence(wait_ns, "unloaded it")
            else:
                self._table.note(consumer_id, None, None)
                refused[consumer_id] = silence(wait_ns, "given it back")

    # ---- inside ----

    def _quoted(self, device_id: str | None, need_bytes: int) -> list[tuple[Consumer, Quote]]:
        found = self._quotes_of(self._here(device_id), need_bytes)
        if self._core.events.wanted(ReleaseRequested):  # else no one would hear the question
            found += [(_HostConsumer(self, each), each) for each in self._table.quotes(device_id)]
        return found

    def _quotes_of(self, consumers: Iterable[Consumer], need_bytes: int = 0) -> list[tuple[Consumer, Quote]]:
        found = []
        for each in consumers:
            try:
                holding = each.holding()
                # Whatever an operator's code says: what is no offer is none.
                said = (offer for offer in each.offers(need_bytes) if offer.bytes > 0)
                offers = tuple(offer for offer in said if 0 <= offer.cost_ms < inf)
            except Exception as error:  # noqa: BLE001 - an operator's code
                self._failed(each, error)
                continue
            quote = self._table.priced(
                Quote(
                    each.consumer_id,
                    each.kind,
                    each.device_id,
                    holding,
                    offers,
                    silent=each.unheard if isinstance(each, AskedConsumer) else None,
                    counted=each.kind == POOL,
                    allocated=_is_allocated(each),
                )
            )
            found.append((each, quote))
        return found

    def _usage(self, consumer: Consumer) -> Usage:
        try:
            return consumer.usage() if isinstance(consumer, CountingConsumer) else Usage()
        except Exception as error:  # noqa: BLE001 - an operator's code
            self._failed(consumer, error)
            return Usage()

    def _here(self, device_id: str | None) -> Iterable[Consumer]:
        with self._lock:
            sources, added = self._sources, tuple(self._added.values())
        for source in sources:
            yield from source(device_id)
        for each in added:
            if device_id in {None, each.device_id}:
                yield each

    def _free_bytes(self, device_id: str) -> int | None:
        """Read what a device has free, caches that are kept not counted."""
        try:
            self._monitor.refresh((device_id,), max_age_ms=0, forced=True)
        except DeviceUnavailableError:
            return None
        readings = self._manager.samples.latest(device_id)
        if readings is None or readings.free_bytes is None:
            return None
        return readings.free_bytes - readings.cached_bytes

    def _held_bytes(self, consumer: Consumer) -> int | None:
        """Return what a consumer holds; None where it fails to say."""
        try:
            return consumer.holding().held_bytes
        except Exception as error:  # noqa: BLE001 - an operator's code
            self._failed(consumer, error)
            return None

    def _failed(self, consumer: Consumer, error: Exception) -> None:
        log("error", "a consumer failed", consumer_id=consumer.consumer_id, error=repr(error))


def _is_allocated(consumer: Consumer) -> bool:
    """Tell whether what a consumer holds is in the ledger besides."""
    return bool(getattr(consumer, "allocated", False))


def _claimed(said: object) -> int:
    """Return how many bytes an owner's word is about."""
    if isinstance(said, UnloadedModel):
        return said.freed_bytes
    return said if isinstance(said, int) else 0


def _gain(before: int | None, after: int | None, claimed_bytes: int) -> int | None:
    """Return what came back by a device's readings, and no more than was claimed: others may have freed some, too."""
    if before is None or after is None:
        return None
    return min(max(0, after - before), claimed_bytes)


def _row(wanted: Release, claimed_bytes: int, returned_bytes: int | None) -> ReleasedMemory:
    share = min(1.0, claimed_bytes / wanted.bytes) if wanted.bytes else 0.0
    return ReleasedMemory(
        wanted.consumer_id, wanted.kind, claimed_bytes, returned_bytes, wanted.cost_ms * share, wanted.reason
    )
