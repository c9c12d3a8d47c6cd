"""What a node tells its directory, and when: what matters at once, the rest with the renewal of its lease. Pure.

A thousand nodes that told of every byte would be a thousand times as many messages as anyone can use. What is told is
what would move a placement: another state of a model or device at once, headroom and prices once they are
noticeably different, all of it at most once in ``EVERY_NS``.
"""

from dataclasses import replace

from worker.fleet.pricing import RoomCurve, turn_ms
from worker.fleet.views import DeviceView, ModelView, NodeChange, NodeView

EVERY_NS = 200 * 10**6
"""The shortest time from one message to the next: what comes in between is told together."""

RENEW_NS = 2 * 10**9
"""The longest: by then whatever is different is told, however little, and the lease is renewed."""

SHARE = 0.05
"""By how much of what was told a figure has to be different to be told before the lease is renewed."""

LEAST_BYTES = 64 * 2**20
LEAST_MS = 50.0
"""And by how much at least."""

_PARTS = (0.125, 0.5, 1.0)
"""Of what a device's consumers hold: where its prices are compared."""


class Outbox:
    """What a node told, and what it is to tell next. Its owner locks, and sends."""

    def __init__(self) -> None:
        # All mutable state: what was told last, whole, and when; what a change has to follow on.
        self._told: NodeView | None = None
        self._told_ns = 0
        self._revision = 0

    @property
    def next_revision(self) -> int:
        """The revision by which what happens now will have been told."""
        return self._revision + 1

    def forget(self) -> None:
        """Tell everything the next time: the directory is a new one, or missed something."""
        self._told = None

    def next_message(
        self, now: NodeView, now_ns: int, *, refused: bool = False, at_once: bool = False
    ) -> NodeView | NodeChange | None:
        """Return what is to be told of a node as it is now, once; None for nothing yet. Its ``revision`` is given here.

        ``refused``: whether it refused what was placed on it since the last message, which is proof that what is
        different matters. ``at_once``: whether someone waits for what is different, however short ago the last one was. A message with nothing different in it renews the lease. What was returned counts as told: where sending
        fails, ``forget``.
        """
        told, since_ns = self._told, now_ns - self._told_ns
        if told is not None and since_ns < EVERY_NS and not at_once:
            return None
        if told is not None and since_ns < RENEW_NS and not refused and not matters(told, now):
            return None
        self._revision += 1
        whole = replace(now, revision=self._revision)
        self._told, self._told_ns = whole, now_ns
        return change(told, whole) if told is not None and _same(told, now) else whole


def change(told: NodeView, now: NodeView) -> NodeChange:
    """Return what is different of a node, for who knows it as it was told."""
    devices, models = set(told.devices), tuple[ModelView, ...]()
    gone: tuple[str, ...] = ()
    if told.models is not now.models:
        before = {each.model_id: each for each in told.models}
        models = tuple(each for each in now.models if _other(before.pop(each.model_id, None), each))
        gone = tuple(before)
    return NodeChange(
        now.node_id,
        now.incarnation,
        told.revision,
        now.revision,
        tuple(each for each in now.devices if each not in devices),
        models,
        gone,
        now.draining,
    )


def _other(told: ModelView | None, now: ModelView) -> bool:
    return told is not now and told != now


def matters(told: NodeView, now: NodeView) -> bool:
    """Tell whether a placement may be another by what is different."""
    if told.draining != now.draining or not _same(told, now):
        return True
    devices = {each.device_id: each for each in told.devices}
    for device in now.devices:
        before = devices[device.device_id]
        if before is not device and _device_matters(before, device):
            return True
    if told.models is now.models:
        return False
    models = {each.model_id: each for each in told.models}
    if models.keys() != {each.model_id for each in now.models}:
        return True
    moved = ((models[each.model_id], each) for each in now.models if models[each.model_id] is not each)
    return any(_settled(before) != _settled(after) for before, after in moved)


def _same(told: NodeView, now: NodeView) -> bool:
    """Tell whether it is what a change can follow on: the same start of its worker, with the same devices."""
    left, right = (
        (each.incarnation, each.default_device_id, [device.device_id for device in each.devices])
        for each in (told, now)
    )
    return left == right


def _device_matters(told: DeviceView, now: DeviceView) -> bool:
    # How many run at once is found at a crowd's end, and the next is shared out by it, though nobody waits just now.
    before_it, after_it = (
        (each.state, each.parallel, each.unslowed, each.available_bytes is None) for each in (told, now)
    )
    if before_it != after_it:
        return True
    if differs(told.available_bytes or 0, now.available_bytes or 0, LEAST_BYTES):
        return True
    before_ms, after_ms = ((each.queue_ms, turn_ms(each), each.so_far_ms) for each in (told, now))
    if any(differs(before, after, LEAST_MS) for before, after in zip(before_ms, after_ms, strict=True)):
        return True
    if told.prices is now.prices:
        return False
    before, after = RoomCurve(told.prices, {}), RoomCurve(now.prices, {})
    if differs(before.most_bytes, after.most_bytes, LEAST_BYTES):
        return True
    least = min(before.most_bytes, after.most_bytes)
    wanted = [int(least * part) for part in _PARTS]
    return any(differs(before.cost_ms(size) or 0.0, after.cost_ms(size) or 0.0, LEAST_MS) for size in wanted)


def differs(told: float, now: float, least: float) -> bool:
    """Tell whether a figure is noticeably different."""
    return abs(told - now) > max(least, SHARE * abs(told))


def _settled(model: ModelView) -> ModelView:
    """Return a model without what moves all the time."""
    return replace(model, in_use=0, ready_in_ms=0.0, load_ms=None, restore_ms=None, read_bytes_per_s=None)
