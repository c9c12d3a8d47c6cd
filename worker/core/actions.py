"""What gives memory back: the actions that are recommended, what each would bring, and what it brought."""

from protocol.record import Record
from protocol.results import KeptConsumer, KeptModel, ReleasedMemory
from protocol.vocabulary import PressureLevel
from worker.core.consumers import Release


class ClearCache(Record):
    """Give up what a device keeps for reuse."""

    device_id: str


class UnloadModel(Record):
    """Unload one model that is idle."""

    model_id: str


class EvictBytes(Record):
    """Unload models of a device, those whose loss costs least first, until so much is freed."""

    device_id: str
    min_bytes: int


class Defragment(Record):
    """Join a device's free memory; with ``restart`` by replacing its process, contents carried over."""

    device_id: str
    restart: bool = False


RecommendedAction = ClearCache | UnloadModel | EvictBytes | Defragment


class Recommended(Record):
    """An action worth taking, and why."""

    action: RecommendedAction
    expected_freed_bytes: int | None
    cost_ms: int | None
    cost_of: str
    """What takes that long, for people."""
    reason: str


class ReleaseMemory(Record):
    """What a consumer would give back. No request makes it do so, thus it is never recommended: it is part of optimizing."""

    device_id: str
    release: Release
    target: PressureLevel | float = PressureLevel.LOW
    """The level, or the percentage of the budget, that it is to bring the device to: there it is not asked for any more."""

    @property
    def expected_freed_bytes(self) -> int:
        """What is expected to come back."""
        return self.release.expected_bytes

    @property
    def cost_ms(self) -> float:
        """What building it again is expected to take."""
        return self.release.cost_ms


class Step(Record):
    """A recommended action that was carried out, or in a dry run only chosen."""

    recommended: Recommended
    returned_bytes: int | None
    """Measured at the operating system or driver; None where it was not measured, or not done."""


class OptimizeOutcome(Record):
    """What carrying recommended actions out did."""

    steps: tuple[Step, ...]
    claimed_bytes: int | None
    """What the steps should have freed; None where one of them could not say."""
    returned_bytes: int | None
    pressure_before: PressureLevel
    pressure_after: PressureLevel
    released: tuple[ReleasedMemory, ...] = ()
    """What consumers gave back, or in a dry run would be asked for; not among the steps."""
    models_kept: tuple[KeptModel, ...] = ()
    consumers_kept: tuple[KeptConsumer, ...] = ()


def with_returned(reason: str, claimed_bytes: int | None, returned_bytes: int | None) -> str:
    """Return a reason that says what came back, where that was measured and is not what was claimed."""
    if claimed_bytes is None or returned_bytes is None or claimed_bytes == returned_bytes:
        return reason
    return f"{reason}; {returned_bytes} bytes came back of {claimed_bytes}"
