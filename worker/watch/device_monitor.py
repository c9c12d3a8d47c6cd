"""Sampling devices: readings when they are needed, and what follows when they show something new."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from protocol.results import TimelinePoint
from protocol.vocabulary import DeviceState, PressureLevel
from worker.backends.base import DeviceBackend, OwnProcess, ProbedBeside, TellsFigures
from worker.core.cancellation import CancelToken, wait_for_change
from worker.core.errors import DeviceLostError, DeviceUnavailableError
from worker.core.events import (
    BudgetChanged,
    ContentsDisplaced,
    DemotionChanged,
    DeviceLost,
    DeviceRecovered,
    PressureChanged,
)
from worker.core.log import log
from worker.core.records import HOST, DeviceInfo, Readings, age_order
from worker.core.shortages import patiently, shortage
from worker.core.sure_lock import SureCondition
from worker.manager.devices import unavailable
from worker.manager.pressure_table import Observation
from worker.policy.polling import TIDY_NS
from worker.policy.pressure import DEFAULT_LIMITS, SEVERITY
from worker.watch.pace import Pace
from worker.watch.readers import PATIENCE_S, Reader
from worker.watch.trends import TrendWatch
from worker.wiring import Core

READINGS_MAX_AGE_MS = 100
"""Readings are taken again after this, or at once when the ledger changed: one costs about 0.1 ms."""

RECENT_MS = 10
"""Readings of so little time ago are as good as ones taken now, for who goes on with what they told."""

NOTED_MAX_AGE_MS = 250
"""A device's process notes its figures every 50 ms while they are asked for, and after each call."""


class DeviceMonitor:
    """Keeps the manager's readings recent, records and tells of what is new, and removes what devices lost."""

    def __init__(self, core: Core, trends: TrendWatch, pace: Pace) -> None:
        self._core = core
        self._manager = core.manager
        self._devices, self._samples = core.manager.devices, core.manager.samples
        self._backends = core.backends
        self._publish = core.events.publish
        self._trends = trends
        self._pace = pace
        self._known = SureCondition()
        """Notified when a device is found to be there, or not to be."""
        self._readers: dict[str, Reader] = {}
        self._kinds: dict[type, tuple[bool, bool]] = {}

    # ---- which are there ----

    def begin(self, backend: ProbedBeside) -> None:
        """Have a backend look for its devices, and list those that it expects meanwhile."""
        self.note_devices(backend, backend.devices)
        if isinstance(backend, TellsFigures):
            backend.watch_figures(self._sample_soon)
        backend.begin(partial(self.note_devices, backend))

    def _sample_soon(self, device_id: str) -> None:
        """Have a device sampled now: its figures have changed, and not by the worker."""
        if device_id in self._backends:
            self._samples.mark_stale(device_id)
            self._pace.hurry(0)

    def note_devices(self, backend: DeviceBackend, found: tuple[DeviceInfo, ...]) -> None:
        """Take over what a backend says of its devices: found, lost, or there again."""
        for info in found:
            if info.device_id not in self._backends:
                self._backends[info.device_id] = backend
                self._devices.add(info, DEFAULT_LIMITS)
                continue
            known = self._devices.info(info.device_id)
            before = known.state
            if info.state is DeviceState.LOST:
                self._lose(info.device_id, info.state_reason or "its process ended")
            elif before is DeviceState.LOST and info.state is DeviceState.AVAILABLE:
                lost_ms = self._devices.recover(info)
                self._publish(DeviceRecovered(info.device_id, lost_ms))
            elif before is not DeviceState.LOST:
                self._devices.change(info)
                if info.displaced != known.displaced:
                    self._publish(ContentsDisplaced(**vars(self._manager.displaced(info.device_id))))
        with self._known:
            self._known.notify_all()

    def wait_until_known(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        """Wait for the end of a probe, or of a restart. Raises what the token raises."""
        with self._known:
            while any(self._devices.info(each).state is DeviceState.PROBING for each in device_ids):
                wait_for_change(self._known, token)

    def available(self, device_ids: tuple[str, ...], token: CancelToken | None = None) -> tuple[str, ...]:
        """Return the devices that can be asked. DeviceUnavailableError if the only one cannot.

        With a token, the only one is waited for while it is not known.
        """
        if token is not None and len(device_ids) == 1:
            self.wait_until_known(device_ids, token)
        infos = [self._devices.info(device_id) for device_id in device_ids]
        if len(infos) == 1 and infos[0].state is not DeviceState.AVAILABLE:
            raise unavailable(infos[0])
        return tuple(info.device_id for info in infos if info.state is DeviceState.AVAILABLE)

    # ---- what they say ----

    def refresh(
        self,
        device_ids: tuple[str, ...],
        *,
        max_age_ms: int,
        exact: bool = True,
        forced: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Take readings where those at hand are too old (``exact``: or older than the ledger).

        What a device's process noted in the last 250 ms will do, and costs a few microseconds; the device itself is
        asked where something was changed since, where ``max_age_ms`` is 0, and if ``forced``. All processes
        together are waited for so long and no longer; their last figures have to do then, with their age. Where a
        device's memory is the machine's, that is read after it, once: what was made here counts there from then on.
        """
        until = None
        host_too = False
        for device_id in device_ids:
            if device_id == HOST or not self._samples.needed(
                device_id, max_age_ms, exact=exact, forced=forced
            ):
                continue
            own_process, may_hang = self._kind(self._backends[device_id])
            if not may_hang:
                self._take_readings(device_id)
            elif not own_process or forced or not max_age_ms or not self._take_recent(device_id):
                until = time.monotonic() + patience_s if until is None else until
                self._ask(device_id, max(0, until - time.monotonic()))
            host_too = host_too or self._devices.info(device_id).shared_with == HOST
        if (host_too or HOST in device_ids) and self._samples.needed(
            HOST, max_age_ms, exact=exact, forced=forced or host_too
        ):
            self._take_readings(HOST)

    def refresh_unless_recent(self, device_ids: tuple[str, ...]) -> None:
        """Ask devices now, but for those that were read within 10 ms, and which nothing of ours changed since."""
        due = tuple(each for each in device_ids if self._samples.needed(each, RECENT_MS))
        self.refresh(due, max_age_ms=0, forced=True)

    def _ask(self, device_id: str, patience_s: float) -> None:
        """Ask a device that may hang; where it does, what its process noted last has to do, however old."""
        before = self._samples.read_ns(device_id)
        self._reader(f"readings {device_id}", partial(self._take_readings, device_id)).read(patience_s)
        if self._samples.read_ns(device_id) == before and self._kind(self._backends[device_id])[0]:
            self._take_recent(device_id, max_age_ms=None)

    def _take_recent(self, device_id: str, max_age_ms: int | None = NOTED_MAX_AGE_MS) -> bool:
        """Take over what a device's process noted. False where it has to be asked."""
        backend, sample = self._backends[device_id], self._samples.begin(device_id)
        try:
            found = (
                backend.recent_readings(device_id, max_age_ms) if isinstance(backend, OwnProcess) else None
            )
            if found is not None:
                self._samples.note(device_id, found[0], sample, found[1])
        finally:
            self._samples.give_up(device_id, sample)
        return found is not None

    def _kind(self, backend: DeviceBackend) -> tuple[bool, bool]:
        """Tell whether a backend has a process of its own, and whether it may hang: asked of a type once, for it takes 20 us."""
        known = self._kinds.get(type(backend))
        if known is None:
            known = isinstance(backend, OwnProcess), isinstance(backend, ProbedBeside)
            self._kinds[type(backend)] = known
        return known

    def tick(self, backend: DeviceBackend) -> None:
        """Let a backend give up what it kept for nothing; one that may hang at its own time."""
        if isinstance(backend, ProbedBeside):
            self._reader(f"tick {backend.devices[0].device_id}", backend.tick).read(patience_s=0)
        else:
            backend.tick()

    def observe(self, device_ids: tuple[str, ...], *, changed: bool = False) -> None:
        """Record how devices are, tell of new levels and budgets, and give caches up under pressure.

        ``changed``: in a way that the ledger does not show, as when caches were given up.
        """
        for device_id in device_ids:
            try:
                patiently(partial(self.observe_one, device_id, changed=changed))
            except MemoryError:  # the change is made: what follows from it is seen when it is sampled next
                patiently(partial(log, "error", "a change was not observed", device_id=device_id))

    def observe_one(self, device_id: str, *, changed: bool = False) -> Observation:
        """Observe a device, and return what was seen. MemoryError: call again."""
        if changed:
            self._samples.mark_stale(device_id)
        readings = self._samples.latest(device_id)
        if readings is not None and readings.largest_block_bytes is not None:
            # Where memory lies in pieces, what can be had now cannot be worked out from before.
            self.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS)
        seen = self._manager.pressure.observe(device_id)
        try:
            self._record(seen)
            self._tell(seen)
            self._pace.hurry(TIDY_NS)
        except Exception as error:  # noqa: BLE001 - what follows from a change is no part of it
            log("error", "what follows from a change failed", device_id=device_id, error=repr(error))
        return seen

    def _record(self, seen: Observation) -> None:
        """Add a device's present figures to the timeline and the trend."""
        self._trends.note(seen)
        status = seen.status
        self._core.history.record_memory(
            TimelinePoint(
                device_id=status.device_id,
                ms_ago=0,
                span_ms=0,
                allocated_bytes=status.allocated_bytes,
                peak_allocated_bytes=status.allocated_bytes,
                # Between a change and the next readings the ledger is ahead of what the system said.
                process_used_bytes=status.process_used_bytes if seen.exact else None,
                available_bytes=status.available_bytes,
                pressure_level=status.pressure_level,
            )
        )

    def _tell(self, seen: Observation) -> None:
        device_id, now, before = seen.status.device_id, seen.status.pressure_level, seen.previous_level
        change, available = seen.budget_change, seen.headroom.available_bytes
        if change is not None:
            self._publish(
                BudgetChanged(device_id, change.previous_bytes, change.budget_bytes, change.source, available)
            )
        if seen.demotion_change is not None:
            moved = seen.demotion_change
            self._publish(DemotionChanged(device_id, moved.previous_bytes, moved.demoted_bytes))
        if before is None:
            return
        if SEVERITY[now] >= SEVERITY[PressureLevel.HIGH]:
            self._trim(device_id)
        if before is not PressureLevel.UNKNOWN:
            self._publish(
                PressureChanged(device_id, before, now, seen.headroom.pressure_percentage, available)
            )

    def _trim(self, device_id: str) -> None:
        """Have a device give up its caches; one that may hang at its own time, for any thread may observe it."""
        backend = self._backends[device_id]

        def trim() -> None:
            with suppress(DeviceUnavailableError):  # it went away just now, and that is told of
                backend.trim(device_id)

        if isinstance(backend, ProbedBeside):
            self._reader(f"trim {device_id}", trim).read(patience_s=0)
        else:
            trim()

    @contextmanager
    def watching_for_loss(self) -> Iterator[None]:
        """Remove what was on a device that turns out to be gone, then let the error go on."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(str(error.details["device_id"]), error.message)
            raise

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Remove what was on a device that turns out to be gone; who only asked gets an answer."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(str(error.details["device_id"]), error.message)
        except DeviceUnavailableError:
            pass  # its process ended or is replaced just now: whoever replaces it tells

    # ---- inside ----

    def _reader(self, name: str, take: Callable[[], None]) -> Reader:
        reader = self._readers.get(name)
        return self._readers.setdefault(name, Reader(name, take)) if reader is None else reader

    def _take_readings(self, device_id: str) -> None:
        sample = self._samples.begin(device_id)
        try:
            with self._noting_loss():
                self._samples.note(device_id, self._readings(device_id), sample)
        except Exception as error:
            if isinstance(error, OSError) and shortage(error) is not None:
                raise  # whoever asked may have something in reserve
            log("error", "a device's readings failed", device_id=device_id, error=repr(error))
        finally:
            self._samples.give_up(device_id, sample)

    def _readings(self, device_id: str) -> Readings:
        """Ask a device; a restart helps only one that has a process to restart."""
        backend = self._backends[device_id]
        readings = backend.readings(device_id)
        if readings.restart_returns_bytes is None or isinstance(backend, OwnProcess):
            return readings
        return replace(readings, restart_returns_bytes=None)

    def _lose(self, device_id: str, reason: str) -> None:
        lost = patiently(partial(self._manager.lose_device, device_id, reason))
        if lost is not None:
            names = tuple(each.allocation_id for each in sorted(lost.allocations, key=age_order))
            self._publish(DeviceLost(device_id, reason, names, lost.model_ids))
