"""Work in batches that fit: ``host.batches``. How large the next one is, is planned anew from the headroom each time."""

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from traceback import clear_frames
from types import TracebackType
from typing import Generic, TypeVar

from protocol.record import Record
from worker.backends.torch_errors import Cause, cause_of
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    DeviceNotFoundError,
    DeviceUnavailableError,
    LimitExceededError,
    OutOfMemoryError,
)
from worker.core.records import AllocationRequest, Report, no_report
from worker.policy.batches import batch_size, least_headroom

T = TypeVar("T")

_GROW_AFTER = 8
"""Batches in a row that fit before a larger one is tried again, where a larger one did not; twice as many each time."""


class Plannable(Record):
    """What batches ask of the worker."""

    available_bytes: Callable[[str], int | None]
    """What one allocation can get on a device now. DeviceNotFoundError, DeviceUnavailableError."""
    idle_bytes: Callable[[str], int]
    """What of a device is kept for the next use alone, and goes before anything is refused for want of it."""
    give_up_idle: Callable[[str], int]
    """Gives that back; returns how much it was."""
    can_ever_fit: Callable[[AllocationRequest], bool]
    """Whether so much could be there if all went that may go."""
    now_ns: Callable[[], int]


class Saved(Record):
    """What working in batches came to."""

    item_count: int
    batch_count: int
    peak_bytes: int
    """Of the largest batch, as planned."""
    unbatched_bytes: int
    """What all items at once would have taken."""
    savings_percentage: float
    out_of_memory_count: int
    """Batches that did not fit after all, and were done again in two halves, or elsewhere."""
    moved_items: int
    """Items that were done on the fallback."""


class _Fit:
    """The most that a device was seen to take, where it did not take what was planned."""

    def __init__(self) -> None:
        self.most: int | None = None
        self._wait = _GROW_AFTER
        self._since = 0

    def refused(self, count: int) -> None:
        """Note that so many items were too many."""
        if self.most is not None and count > 1:
            self._wait *= 2  # it grew too soon
        self.most = max(1, count // 2)
        self._since = 0

    def fitted(self, count: int) -> None:
        """Note that so many fit; after some of them more are tried."""
        if self.most is None or count < self.most:
            return
        self._since += 1
        if self._since >= self._wait:
            self.most, self._since = 2 * self.most, 0


class Batch(Generic[T]):
    """The next items, and where they are to be worked on. As a context manager it is done again where memory ran out."""

    def __init__(self, owner: "Batches[T]", items: list[T], device_id: str) -> None:
        self.items = items
        self.device_id = device_id
        self._owner = owner

    def __enter__(self) -> list[T]:
        return self.items

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._owner.done(self)
            return False
        if not self._owner.again(self, error):
            return False
        clear_frames(trace)  # what failed holds on to its memory there
        return True


class Batches(Generic[T]):
    """Batches of items, one after the other. Of one thread."""

    def __init__(
        self, worker: Plannable, items: Iterable[T], bytes_per_item: int, *, report: Report | None = None,
        device: str = "cuda:0", fallback: str | None = "cpu", token: CancelToken | None = None,
        fixed_bytes: int = 0, max_fraction: float = 0.8,
    ) -> None:  # fmt: skip
        """``fixed_bytes`` is what each batch takes besides its items; ``max_fraction`` how much of the headroom it may."""
        if bytes_per_item < 1 or fixed_bytes < 0 or not 0 < max_fraction <= 1:
            raise ValueError(
                "an item takes at least one byte, and a batch a share of the headroom from 0 to 1"
            )
        self._worker = worker
        self._rest = iter(items)
        self._total = len(items) if isinstance(items, Sized) else None
        self._per_item, self._fixed, self._fraction = bytes_per_item, fixed_bytes, max_fraction
        self._device, self._fallback = device, fallback
        self._report = report or no_report
        self._token = token or CancelToken(worker.now_ns)
        # All mutable state: items that are to be done again, and whether on the fallback; what is under way; what was seen.
        self._again: list[tuple[list[T], bool]] = []
        self._current: Batch[T] | None = None
        self._fits: dict[str, _Fit] = {}
        self._retried = False  # the next batch is one that failed before, and is done again whole
        self._done = self._count = self._largest = self._refused = self._moved = 0

    @property
    def saved(self) -> Saved:
        """What it came to so far."""
        peak = self._fixed + self._largest * self._per_item if self._largest else 0
        unbatched = self._fixed + self._done * self._per_item if self._done else 0
        share = 0.0 if not unbatched else round(100 * max(0.0, 1 - peak / unbatched), 3)
        return Saved(self._done, self._count, peak, unbatched, share, self._refused, self._moved)

    def __iter__(self) -> Iterator[Batch[T]]:
        return self

    def __next__(self) -> Batch[T]:
        """Return the next batch; the one before is done, whatever came of it.

        Raises:
            CancelledError, DeadlineExceededError: the work is to stop.
            OutOfMemoryError: not even one item fits, on the fallback neither; not retryable where it never will.
            DeviceNotFoundError, DeviceUnavailableError: there is no such device, and no fallback.
        """
        if self._current is not None:
            self.done(self._current)
        self._token.check()
        items, elsewhere = self._again.pop() if self._again else (list(islice(self._rest, 1)), False)
        if not items:
            raise StopIteration
        try:
            device_id, count = self._place(elsewhere=elsewhere)
        except BaseException:
            self._again.append((items, elsewhere))
            raise
        if len(items) > count:
            items, later = items[:count], items[count:]
            self._again.append((later, elsewhere))
        elif not self._again and not elsewhere:
            items += islice(self._rest, count - len(items))
        self._current = Batch(self, items, device_id)
        return self._current

    def done(self, batch: Batch[T]) -> None:
        """Note that a batch is done."""
        if batch is not self._current:
            return
        count, self._current, self._retried = len(batch.items), None, False
        self._done += count
        self._count += 1
        self._largest = max(self._largest, count)
        if batch.device_id != self._device:
            self._moved += count
        self._fits.setdefault(batch.device_id, _Fit()).fitted(count)
        self._report(self._done, self._total or self._done)

    def again(self, batch: Batch[T], error: BaseException) -> bool:
        """Put a batch back where it failed for memory or its device; False for any other error, or where no way is left."""
        cause = Cause.OUT_OF_MEMORY if isinstance(error, LimitExceededError) else cause_of(error)
        lost = cause is Cause.DEVICE_LOST or isinstance(error, DeviceUnavailableError)
        if not lost and cause is not Cause.OUT_OF_MEMORY:
            return False
        count, here = len(batch.items), batch.device_id
        idle = 0 if lost else self._worker.give_up_idle(here)
        movable = self._fallback not in {None, here}
        # Once: what a batch leaves idle by itself each time does not help it.
        whole = idle > 0 and not self._retried
        if not whole and (lost or count == 1) and not movable:
            return False
        self._current, self._retried = None, whole
        self._refused += 1
        if whole:  # what was planned with is there now
            self._again.append((batch.items, here != self._device))
        elif not lost and count > 1:
            self._fits.setdefault(here, _Fit()).refused(count)
            half = count // 2
            self._again += [(batch.items[half:], False), (batch.items[:half], False)]
        else:
            self._again.append((batch.items, True))
        return True

    # ---- inside ----

    def _place(self, *, elsewhere: bool) -> tuple[str, int]:
        """Return where the next batch goes, and how many items fit there now."""
        passing = False
        if not elsewhere:
            try:
                return self._device, self._fitting(self._device)
            except (OutOfMemoryError, DeviceNotFoundError, DeviceUnavailableError) as error:
                if self._fallback in {None, self._device}:
                    raise
                passing = error.retryable
        try:
            return str(self._fallback), self._fitting(str(self._fallback))
        except OutOfMemoryError as error:
            error.retryable = error.retryable or passing
            raise

    def _fitting(self, device_id: str) -> int:
        available = self._worker.available_bytes(device_id)
        fit = self._fits.get(device_id)
        most = fit.most if fit is not None else None
        if available is None:  # no source tells: the device itself will
            return most or self._total or 1
        available += self._worker.idle_bytes(device_id)
        size = batch_size(available, self._per_item, self._fixed, self._fraction)
        if size < 1:
            needed = self._fixed + self._per_item
            message = f"{device_id} has {available} bytes of headroom, and a batch of one item needs {needed}"
            message += f" in {self._fraction:.0%} of it"
            error = OutOfMemoryError(
                message, device_id=device_id, requested_bytes=needed, available_bytes=available
            )
            least = least_headroom(self._per_item, self._fixed, self._fraction)
            error.retryable = self._worker.can_ever_fit(AllocationRequest(device_id, least))
            raise error
        return size if most is None else min(size, most)
