"""Every consumer of memory: what it offers now, and having it give that back. What counts is what devices show after it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from math import inf

from protocol.results import ConsumerStatus
from protocol.vocabulary import EventName, PressureLevel
from worker.core.cancellation import CancelToken
from worker.core.consumers import (
    OWN_PREFIXES,
    POOL,
    Consumer,
    Holding,
    LimitedConsumer,
    Offer,
    Quote,
    Release,
    Usage,
    front_of,
    is_counting,
    is_limited,
    keeps_idle,
)
from worker.core.errors import ConsumerNotFoundError, DeviceUnavailableError, InvalidRequestError
from worker.core.events import ConsumerLimitChanged, ReleaseRequested
from worker.core.log import log
from worker.core.records import HOST, Readings, sum_if_known
from worker.core.sure_lock import SureLock
from worker.manager.consumer_table import Registration
from worker.policy.holders import HeldConsumer
from worker.policy.pressure import SEVERITY, for_others
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.gone import Gone
from worker.workers.questions import Questions
from worker.workers.release_round import ReleaseRound, is_asked

_UNHEARD = f"nobody listens for {EventName.RELEASE_REQUESTED}"

Source = Callable[[str | None], Iterable[Consumer]]
"""Returns the consumers of one kind on a device, or on all."""


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
        """Have a consumer that was added take part no more, nor be limited; nothing happens to one that was not."""
        with self._lock:
            if self._added.pop(consumer_id, None) is not None:
                self._table.unregister(consumer_id)

    def quotes(self, device_id: str | None = None, need_bytes: int = 0) -> tuple[Quote, ...]:
        """Return what all of them offer on a device, or on all. Without any lock: what it calls may be slow."""
        ours = (quote for _, quote in self._quotes_of(self._here(device_id), need_bytes))
        hosts = self._table.quotes(device_id)
        if not self._core.events.wanted(ReleaseRequested):
            hosts = tuple(replace(each, silent=_UNHEARD) for each in hosts)
        return (*ours, *hosts)

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

    def device_of(self, consumer_id: str) -> str | None:
        """Return the device of a host's consumer; None for one that is not registered."""
        return self._table.device_of(consumer_id)

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
            if is_limited(consumer) and (held := self._held_bytes(consumer)) is not None:
                yield consumer.consumer_id, held, partial(self._limit, consumer)

    def _tell_limit(self, consumer_id: str, limit_bytes: int | None, reason: str) -> None:
        self._core.events.publish(ConsumerLimitChanged(consumer_id, limit_bytes, reason))

    def _limit(self, consumer: LimitedConsumer, limit_bytes: int | None, reason: str) -> None:
        try:
            consumer.limit_changed(limit_bytes, reason)
        except Exception as error:  # noqa: BLE001 - an operator's consumer may raise anything, and the others are to be asked all the same
            self.failed(consumer, error)

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
        """Have consumers give back what a plan takes of them; adds what they did. ``why`` is told them.

        Returns of which nothing more is to be had now, and why. Raises what the token raises.
        """
        found: dict[str, Consumer] = {each.consumer_id: each for each in self._here(device_id)}
        found |= {each.consumer_id: each for each, _ in self._heard(device_id)}
        wait_ns = self.questions.wait_ns(token, within_ns)
        wanted = [(found.get(each.consumer_id), each) for each in releases]
        with self._lock:
            ours = frozenset(self._added)
        return ReleaseRound(self, self._table, self._clock, device_id, token, gone, ours).run(
            wanted, why, wait_ns
        )

    def give_back_idle(self, device_id: str) -> tuple[int, int | None]:
        """Have all that is kept on a device for its next use go, as its caches do. Returns bytes, and those that came back."""
        given = [each.give_back() for each in self._here(device_id) if keeps_idle(each)]
        return sum(size for size, _ in given), sum_if_known(returned for _, returned in given)

    def readings(self, device_id: str, *, recent: bool = False) -> Readings | None:
        """Read a device now, or see what was ``recent``."""
        try:
            if recent:
                self._monitor.refresh_unless_recent((device_id,))
            else:
                self._monitor.refresh((device_id,), max_age_ms=0, forced=True)
        except DeviceUnavailableError:
            return None
        return self._manager.samples.latest(device_id)

    def lower(self, consumer: Consumer, reason: str) -> None:
        """Keep a consumer that gave back, and is told of a limit, from taking it again at once."""
        if is_limited(consumer) and (held := self._held_bytes(consumer)) is not None:
            self._limit(consumer, self._table.lower_limit(consumer.consumer_id, held, 0), reason)

    # ---- inside ----

    def _heard(self, device_id: str | None) -> list[tuple[Consumer, Quote]]:
        """Return what hosts registered and offer, where someone hears the question."""
        if not self._core.events.wanted(ReleaseRequested):
            return []
        return [(_HostConsumer(self, each), each) for each in self._table.quotes(device_id)]

    def _quotes_of(self, consumers: Iterable[Consumer], need_bytes: int = 0) -> list[tuple[Consumer, Quote]]:
        found = []
        for each in consumers:
            try:
                holding = each.holding()
                # Whatever an operator's code says: what is no offer is none.
                said = each.offers(need_bytes)
                offers = tuple([one for one in said if one.bytes > 0 and 0 <= one.cost_ms < inf])
            except Exception as error:  # noqa: BLE001 - an operator's consumer may raise anything, and the others are to be asked all the same
                self.failed(each, error)
                continue
            counted = each.kind == POOL
            quote = self._table.priced(
                Quote(
                    each.consumer_id,
                    each.kind,
                    each.device_id,
                    holding,
                    offers,
                    silent=each.unheard if is_asked(each) else None,
                    counted=counted,
                    allocated=_is_allocated(each),
                    front=None if counted else front_of(offers, holding),
                )
            )
            found.append((each, quote))
        return found

    def _usage(self, consumer: Consumer) -> Usage:
        try:
            return consumer.usage() if is_counting(consumer) else Usage()
        except Exception as error:  # noqa: BLE001 - an operator's consumer may raise anything, and the others are to be asked all the same
            self.failed(consumer, error)
            return Usage()

    def _here(self, device_id: str | None) -> Iterable[Consumer]:
        with self._lock:
            sources, added = self._sources, tuple(self._added.values())
        for source in sources:
            yield from source(device_id)
        for each in added:
            if device_id in {None, each.device_id}:
                yield each

    def _held_bytes(self, consumer: Consumer) -> int | None:
        """Return what a consumer holds; None where it fails to say."""
        try:
            return consumer.holding().held_bytes
        except Exception as error:  # noqa: BLE001 - an operator's consumer may raise anything, and the others are to be asked all the same
            self.failed(consumer, error)
            return None

    def failed(self, consumer: Consumer, error: Exception) -> None:
        """Log what a consumer raised."""
        log("error", "a consumer failed", consumer_id=consumer.consumer_id, error=repr(error))


def _is_allocated(consumer: Consumer) -> bool:
    """Tell whether what a consumer holds is in the ledger besides."""
    return bool(getattr(consumer, "allocated", False))
