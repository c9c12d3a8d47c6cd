"""Work in batches: every item is done once and in order, none larger than fits, whatever runs out of memory on the way."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    DeviceLostError,
    DeviceNotFoundError,
    LimitExceededError,
    OutOfMemoryError,
)
from worker.plugins._batches import Batches, Plannable

DEVICE = "cuda:0"


class Devices:
    """Devices with so much headroom as they say, and memory that is kept for nothing."""

    def __init__(self, **available: int | None) -> None:
        self.available = {DEVICE if name == "gpu" else name: size for name, size in available.items()}
        self.idle = dict.fromkeys(self.available, 0)
        self.budgets = dict.fromkeys(self.available, 1000)

    def available_bytes(self, device_id: str) -> int | None:
        if device_id not in self.available:
            raise DeviceNotFoundError(device_id)
        return self.available[device_id]

    def give_up_idle(self, device_id: str) -> int:
        idle = self.idle.get(device_id, 0)
        if idle:
            self.idle[device_id] = 0
            self.available[device_id] = (self.available[device_id] or 0) + idle
        return idle

    def batches(self, items: Any, per_item: int = 10, **more: Any) -> Batches[Any]:
        worker = Plannable(
            self.available_bytes,
            lambda name: self.idle.get(name, 0),
            self.give_up_idle,
            lambda least: least.size_bytes <= self.budgets[least.device_id],
            lambda: 0,
        )
        return Batches(worker, items, per_item, **{"max_fraction": 1.0} | more)


def run(
    batches: Batches[Any], fails: Callable[[str, list[Any]], BaseException | None] = lambda _d, _i: None
) -> Any:
    """Do all items; return what was done where, batch by batch."""
    done = []
    for batch in batches:
        with batch as items:
            error = fails(batch.device_id, items)
            if error is not None:
                raise error
            done.append((batch.device_id, list(items)))
    return done


def flat(done: list[tuple[str, list[Any]]]) -> list[Any]:
    """Return the items in the order in which they were done."""
    return [item for _, items in done for item in items]


def test_each_batch_is_as_large_as_fits_when_it_is_asked_for() -> None:
    """Headroom that falls and rises meanwhile makes smaller and larger ones."""
    devices = Devices(gpu=40, cpu=1000)
    headroom = iter([40, 20, 100])
    done = []
    for batch in devices.batches(range(10)):
        with batch as items:
            done.append(items)
            devices.available[DEVICE] = next(headroom, 1000)
    assert done == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_share_of_the_headroom_and_what_each_batch_takes_besides() -> None:
    """What may be used is a part of what is there, less the fixed bytes."""
    devices = Devices(gpu=100)
    assert [len(items) for _, items in run(devices.batches(range(7), fixed_bytes=20, max_fraction=0.5))] == [
        3,
        3,
        1,
    ]


def test_what_it_saved() -> None:
    """The peak is the largest batch's, beside what all at once would have taken; progress comes after each."""
    told: list[tuple[int, int]] = []
    batches = Devices(gpu=50).batches(range(20), fixed_bytes=10, report=lambda *said: told.append(said))
    run(batches)
    saved = batches.saved
    assert (saved.item_count, saved.batch_count, saved.peak_bytes, saved.unbatched_bytes) == (20, 5, 50, 210)
    assert saved.savings_percentage == pytest.approx(76.19)
    assert (saved.out_of_memory_count, saved.moved_items) == (0, 0)
    assert told == [(4, 20), (8, 20), (12, 20), (16, 20), (20, 20)]
    assert Devices(gpu=1).batches([]).saved.item_count == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("x"),
        LimitExceededError("x"),
        RuntimeError("CUDA out of memory. Tried to"),
    ],
)
def test_out_of_memory_halves_a_batch(error: BaseException) -> None:
    """By the one classifier: it is done again in two halves, and later ones are no larger for a while."""
    batches = Devices(gpu=80).batches(range(20))
    done = run(batches, lambda _, items: error if len(items) > 4 else None)
    assert flat(done) == list(range(20))
    assert [len(items) for _, items in done] == [4] * 5
    assert batches.saved.out_of_memory_count == 1
    assert batches.saved.peak_bytes == 40


def test_after_a_while_a_larger_one_is_tried_again_and_less_often_where_it_fails() -> None:
    """What was short for a moment does not make all later batches small; what stays too small is asked ever more rarely."""
    batches, tries = Devices(gpu=80).batches(range(4000)), 0

    def fails(_device: str, items: list[int]) -> BaseException | None:
        nonlocal tries
        tries += len(items) > 4
        return MemoryError() if len(items) > 4 else None

    assert flat(run(batches, fails)) == list(range(4000))
    assert 3 <= tries <= 10, tries
    short = Devices(gpu=80).batches(range(400))
    sizes = [len(i) for _, i in run(short, lambda _, i: MemoryError() if i[0] < 40 and len(i) > 4 else None)]
    assert sizes[0] == 4
    assert sizes[-2] == 8


def test_what_does_not_fit_alone_goes_to_the_fallback() -> None:
    """One item that the device can't take is done elsewhere; the others stay."""
    batches = Devices(gpu=40, cpu=1000).batches(range(6))
    done = run(batches, lambda device, items: MemoryError() if device == DEVICE and 2 in items else None)
    assert flat(done) == list(range(6))
    assert [(device, items) for device, items in done if device == "cpu"] == [("cpu", [2])]
    assert batches.saved.moved_items == 1


def test_a_device_that_is_full_missing_or_lost_is_left() -> None:
    """While it has no headroom for one item the fallback is used, and as soon as it has some it is used again."""
    assert {device for device, _ in run(Devices(cpu=30).batches(range(5)))} == {"cpu"}
    devices = Devices(gpu=5, cpu=30)
    done = []
    for batch in devices.batches(range(9)):
        with batch as items:
            done.append((batch.device_id, len(items)))
            devices.available[DEVICE] = 20
    assert done == [("cpu", 3), (DEVICE, 2), (DEVICE, 2), (DEVICE, 2)]
    lost = Devices(gpu=20, cpu=30).batches(range(4))
    done = run(lost, lambda device, _: DeviceLostError("gone") if device == DEVICE else None)
    assert flat(done) == [0, 1, 2, 3]


def test_what_is_kept_for_nothing_counts_as_headroom_and_goes_before_a_batch_is_halved() -> None:
    """A batch that ran out beside it is done again whole."""
    devices = Devices(gpu=20)
    devices.idle[DEVICE] = 60
    batches = devices.batches(range(8))
    done = run(
        batches,
        lambda _, items: MemoryError() if 10 * len(items) > (devices.available[DEVICE] or 0) else None,
    )
    assert [len(items) for _, items in done] == [8]
    assert batches.saved.out_of_memory_count == 1


def test_without_a_way_left_it_is_the_callers_error_and_nothing_is_lost() -> None:
    """Nothing fits at all: the error has the figures, and asking again goes on with the same item."""
    devices = Devices(gpu=5, cpu=5)
    batches = devices.batches(iter(range(3)))
    with pytest.raises(OutOfMemoryError, match="cpu has 5 bytes of headroom") as caught:
        next(batches)
    assert (caught.value.details["requested_bytes"], caught.value.details["available_bytes"]) == (10, 5)
    devices.available["cpu"] = 100
    assert flat(run(batches)) == [0, 1, 2]
    with pytest.raises(DeviceNotFoundError):
        next(Devices(cpu=9).batches([1], fallback=None))
    with pytest.raises(MemoryError):
        run(Devices(gpu=10, cpu=10).batches([1]), lambda _device, _items: MemoryError())


def test_the_headroom_that_is_told_has_what_is_kept_for_nothing() -> None:
    """It is what was planned with: the figure does not depend on what an earlier batch left idle."""
    devices = Devices(cpu=5)
    devices.idle["cpu"] = 4
    with pytest.raises(OutOfMemoryError, match="cpu has 9 bytes of headroom") as caught:
        run(devices.batches(range(2), device="cpu"))
    assert caught.value.details["available_bytes"] == 9


@pytest.mark.parametrize(
    ("budgets", "fallback", "retryable"),
    [
        ({DEVICE: 19, "cpu": 19}, "cpu", False),
        ({DEVICE: 20, "cpu": 19}, "cpu", True),
        ({DEVICE: 19, "cpu": 20}, "cpu", True),
        ({DEVICE: 19, "cpu": 20}, None, False),
        ({"cpu": 19}, "cpu", False),
    ],
)
def test_what_can_never_fit_is_not_to_be_tried_again(
    budgets: dict[str, int], fallback: str | None, *, retryable: bool
) -> None:
    """A batch of one item takes 10 bytes, which is half of 20; it is enough that one of both could have them some day."""
    devices = Devices(**{"gpu" if name == DEVICE else name: 5 for name in budgets})
    devices.budgets = budgets
    with pytest.raises(OutOfMemoryError) as caught:
        next(devices.batches([1], fallback=fallback, max_fraction=0.5))
    assert caught.value.retryable is retryable


def test_any_other_error_goes_on() -> None:
    """It is the block's own, as is what it did."""
    with pytest.raises(ZeroDivisionError):
        run(Devices(gpu=10).batches([1]), lambda _device, _items: ZeroDivisionError())


def test_cancelling_stops_before_the_next() -> None:
    """What was done stays done."""
    token = CancelToken(lambda: 0)
    batches = Devices(gpu=20).batches(range(10), token=token)
    with next(batches) as items:
        assert items == [0, 1]
        token.cancel()
    with pytest.raises(CancelledError):
        next(batches)
    assert batches.saved.item_count == 2


def test_where_headroom_is_unknown_the_device_says() -> None:
    """All is tried at once, and halved as far as it has to be."""
    done = run(
        Devices(gpu=None).batches(range(16)), lambda _, items: MemoryError() if len(items) > 5 else None
    )
    assert flat(done) == list(range(16))
    assert max(len(items) for _, items in done) == 4


@pytest.mark.parametrize(
    "more", [{"per_item": 0}, {"fixed_bytes": -1}, {"max_fraction": 0}, {"max_fraction": 1.5}]
)
def test_sizes_that_are_none_are_refused(more: dict[str, Any]) -> None:
    """The error says what they are."""
    with pytest.raises(ValueError, match="at least one byte"):
        Devices(gpu=10).batches([1], **more)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 40), st.booleans())
def test_every_item_is_done_once_and_in_order(data: st.DataObject, count: int, sized: bool) -> None:
    """Whatever headroom there is and whatever fails, and none is larger than what was planned for it."""
    devices = Devices(gpu=50, cpu=400)
    batches = devices.batches(list(range(count)) if sized else iter(range(count)))
    done: list[tuple[str, list[int]]] = []
    for batch in batches:
        with batch as items:
            room = devices.available[batch.device_id]
            assert 10 * len(items) <= (room or 0) + devices.idle[batch.device_id]
            devices.available[DEVICE] = data.draw(st.integers(0, 100))
            devices.idle[DEVICE] = data.draw(st.sampled_from([0, 0, 20]))
            if batch.device_id == DEVICE and data.draw(st.booleans()):
                raise MemoryError
            done.append((batch.device_id, items))
    assert flat(done) == list(range(count))
    assert batches.saved.item_count == count
    assert batches.saved.batch_count == len(done)


@pytest.mark.parametrize("fallback", [None, "cpu"])
def test_what_a_batch_leaves_idle_itself_each_time_does_not_keep_it_from_being_halved(
    fallback: str | None,
) -> None:
    """It is done again whole once, then in halves; one item that fits nowhere is the caller's error in the end."""
    devices = Devices(gpu=80, cpu=80)
    tries: list[int] = []

    def fails(device: str, items: list[int]) -> BaseException | None:
        tries.append(len(items))
        assert len(tries) < 100, "it goes on without end"
        devices.idle[device], devices.available[device] = 20, 60
        return MemoryError() if len(items) > most else None

    most = 2
    done = run(devices.batches(range(8), fallback=fallback), fails)
    assert flat(done) == list(range(8))
    assert tries[:5] == [8, 8, 4, 4, 2]
    most = 0
    tries.clear()
    with pytest.raises(MemoryError):
        run(devices.batches(range(2), fallback=fallback), fails)
    assert tries == ([2, 2, 1, 1] if fallback is None else [2, 2, 1, 1, 1, 1])
