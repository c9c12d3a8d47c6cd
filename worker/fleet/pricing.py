"""What a placement costs, term by term: a turn on a loaded model, a load, making room. Pure; in milliseconds."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from math import expm1, log2
from typing import NamedTuple, Self

from protocol.vocabulary import FileLocation, ModelState
from worker.fleet.views import DeviceView, ModelView, PriceStep

DISK_BYTES_PER_S = 500_000_000
"""Of a file on a node's own disk, until it was measured: what SATA solid-state disks read."""

LINK_BYTES_PER_S = 117_000_000
"""Of a file on a share, until it was measured: what one Gbit/s of Ethernet carries of a file."""


WORK_MS = 1000.0
"""How long a lease is taken to be held until any was, anywhere."""


class Usual(NamedTuple):
    """What is expected of a device where it was not measured yet."""

    work_ms: float = WORK_MS
    """How long a lease is held there."""
    parallel: float = 1.0
    """How many are worked on side by side."""

    @property
    def bound(self) -> "Usual":
        """What makes no turn longer than this does, nor than what is a little different."""
        return Usual(self.work_ms / _BOUND, self.parallel * _BOUND)

    def bounds(self, other: "Usual") -> bool:
        """Tell whether no turn is longer by this than by another."""
        return self.work_ms <= other.work_ms and other.parallel <= self.parallel

    def is_close(self, other: "Usual") -> bool:
        """Tell whether turns are not much longer by another."""
        slack = _BOUND * _BOUND
        return other.work_ms <= self.work_ms * slack and self.parallel <= other.parallel * slack

    def higher(self, other: "Usual") -> "Usual":
        """Return what makes turns as long as this or another does, whichever is longer."""
        return Usual(max(self.work_ms, other.work_ms), min(self.parallel, other.parallel))


UNMEASURED = Usual()
"""Where nothing was measured anywhere."""

_BOUND = 1.05
"""How far what is expected may move before bounds that were made by it are made anew."""

SURELY = 1 - 1e-9
"""What a bound is taken times: sums may come out differently in their last bits."""

_LEVELS_PER_OCTAVE = 14
"""Prices are estimates: those that differ by less than a twentieth are as good as each other."""


def level_of(price_ms: float) -> int:
    """Return the level of a price: a millisecond or less is the lowest."""
    return int(_LEVELS_PER_OCTAVE * log2(price_ms)) + 1 if price_ms > 1 else 0


def level_end(level: int) -> float:
    """Return the price at which a level ends."""
    return float(2 ** (level / _LEVELS_PER_OCTAVE))


def spread(name: str) -> int:
    """Return a number that is the same everywhere and says nothing of the name: names in a row are not side by side."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest())


class Work(NamedTuple):
    """What devices measured of leases, added up: whole numbers, so that sums are the same in any order."""

    sum_ms: int = 0
    devices: int = 0
    """Where any ended."""
    so_far_ms: int = 0
    beginning: int = 0
    """Where the first are held."""
    parallel: int = 0
    limited: int = 0
    """Where some waited for others."""

    @classmethod
    def of(cls, devices: Iterable[DeviceView]) -> Self:
        """Add up devices."""
        total = cls()
        for each in devices:
            known, begun = bool(each.work_ms), not each.work_ms and each.so_far_ms > 0
            total = total.plus(
                cls(
                    int(each.work_ms or 0),
                    int(known),
                    int(each.so_far_ms) if begun else 0,
                    int(begun),
                    each.parallel or 0,
                    int(each.parallel is not None),
                )
            )
        return total

    def plus(self, other: "Work", sign: int = 1) -> Self:
        """Add others, or take them out again."""
        return type(self)(*(left + sign * right for left, right in zip(self, other, strict=True)))

    @property
    def usual(self) -> Usual:
        """What is expected where nothing was measured yet.

        The first to end are the shortest. So where that makes them longer, those count that are held on devices where none ended
        yet, each as half done: on average what is under way will take as long again as it did.
        """
        known = self.sum_ms / self.devices if self.devices else WORK_MS
        ended_or_not = (self.sum_ms + 2 * self.so_far_ms) / max(1, self.devices + self.beginning)
        return Usual(max(known, ended_or_not), self.parallel / self.limited if self.limited else 1.0)


def turn_ms(device: DeviceView, ahead: int = 0, usual: Usual = UNMEASURED) -> float:
    """Return how long one more lease waits for its turn on a device.

    ``ahead``: leases that its view does not know of; ``usual``: what is expected where it was not measured. Where none was seen
    to wait for another, as many are expected not to as were side by side already, and as many as elsewhere: so a device that
    has no limit is found out step by step.
    """
    parallel = device.parallel or max(device.unslowed, usual.parallel)
    waiting = device.in_use + ahead + 1 - parallel
    if waiting <= 0:
        return 0.0
    return waiting * (device.work_ms or max(usual.work_ms, device.so_far_ms)) / parallel


def load_ms(model: ModelView, size_bytes: int) -> float:
    """Return what loading a model takes: as measured there, else by how fast its file is read."""
    if model.state is ModelState.OFFLOADED and model.restore_ms is not None:
        return model.restore_ms
    if model.load_ms is not None:
        return model.load_ms
    usual = DISK_BYTES_PER_S if model.file is FileLocation.LOCAL else LINK_BYTES_PER_S
    return size_bytes * 1000 / (model.read_bytes_per_s or usual)


def loss_ms(step: PriceStep, models: Mapping[str, ModelView]) -> float:
    """Return what losing a part costs those who wait for it.

    A node prices a model by its load times the uses expected, which ranks what may go. But its next use brings it back:
    what is waited for is one load, by the chance of any use. That is compared with waits and loads elsewhere.
    """
    model = None if step.model_id is None else models.get(step.model_id)
    if model is None or not model.load_ms:
        return step.cost_ms
    return model.load_ms * -expm1(-step.cost_ms / model.load_ms)


class RoomCurve:
    """What making room on a device costs, by how much: its price steps, added up once."""

    __slots__ = ("_bytes", "_costs", "_steps")

    def __init__(self, steps: Sequence[PriceStep], models: Mapping[str, ModelView]) -> None:
        """Take what a device would give, and what its node says of its models."""
        self._steps = steps
        self._bytes: list[int] = []
        self._costs: list[float] = []
        size, cost = 0, 0.0
        for step in steps:
            size += step.bytes
            cost += loss_ms(step, models)
            self._bytes.append(size)
            self._costs.append(cost)

    @property
    def most_bytes(self) -> int:
        """All that can be had."""
        return self._bytes[-1] if self._bytes else 0

    def cost_ms(self, missing_bytes: int) -> float | None:
        """Return what making so much room costs, taken in the node's order; None where there is too little to be had."""
        if missing_bytes <= 0:
            return 0.0
        index = bisect_left(self._bytes, missing_bytes)
        if index == len(self._bytes):
            return None
        step, cost = self._steps[index], self._costs[index]
        if step.divisible:
            before = self._costs[index - 1] if index else 0.0
            cost -= (cost - before) * (self._bytes[index] - missing_bytes) / step.bytes
        return cost
