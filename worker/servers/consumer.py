"""A model server as a consumer: what it has loaded, and giving it back costs."""

from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.consumers import SERVER_PREFIX, Holding, Offer
from worker.servers.base import Seen, Step
from worker.servers.http import ServerError
from worker.servers.watch import ServerWatch, View

BYTES_PER_MS = 2**30 / 1000
"""How fast models are taken to load where that was never seen: a GiB a second, about a solid-state disk's pace."""

_LOOK_AGAIN_S = 0.1
_STALE_NS = 60 * 10**9
"""An older view offers nothing: the server does not answer."""


class ServerConsumer:
    """One server. What it offers is what it was last seen to have; before it is told anything it is looked at again."""

    def __init__(self, watch: ServerWatch, clock: Clock, reload_ms: float | None) -> None:
        """``reload_ms`` is what having a model again takes, as the operator declared; None to learn it."""
        self.watch = watch
        self._clock = clock
        self._reload_ms = reload_ms
        self.consumer_id = f"{SERVER_PREFIX}{watch.name}"
        self.kind = watch.kind
        self.device_id = watch.device_id
        # All mutable state.
        self.why_nothing: str | None = None
        """Why the last release gave nothing back."""

    def holding(self) -> Holding:
        """Return what it holds, as far as it is known; what is busy is in use."""
        seen = self._seen()
        if seen is None:
            return Holding(0)
        held = sum(each.size_bytes or 0 for each in seen.models) + (seen.shared_bytes or 0)
        busy = sum(each.size_bytes or 0 for each in seen.models if each.busy)
        return Holding(held, in_use_bytes=held if seen.busy else busy)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Return its steps, cheapest per byte first; of several for one model the cheapest."""
        seen = self._seen()
        if seen is None:
            return ()
        offers: dict[str | None, Offer] = {}
        for step in self.watch.server.steps(seen):
            cost, reason = self._price(step)
            offer = Offer(step.bytes, cost, reason, tag=step)
            best = offers.get(step.model)
            if best is None or offer.cost_ms < best.cost_ms:
                offers[step.model] = offer
        return tuple(sorted(offers.values(), key=lambda each: each.cost_ms / max(1, each.bytes)))

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Have it take a step, and wait until it is seen to have. Returns the bytes; 0 where it came into use, or did not."""
        step = offer.tag
        if not isinstance(step, Step):
            raise TypeError(offer)
        self.why_nothing = self._refused(step)
        if self.why_nothing is not None:
            return 0
        while True:
            now = self.watch.look()
            if now.seen is not None and self.watch.server.is_done(step, now.seen):
                return step.bytes
            if now.gone:  # what it had went with it: the device's readings show it
                self.why_nothing = "its server went meanwhile"
                return 0
            self._clock.wait(_LOOK_AGAIN_S, token)

    def _refused(self, step: Step) -> str | None:
        """Tell it to take a step that it still can. Returns why it was not told, or refuses; None where it was."""
        now = self.watch.look()
        if now.seen is None:
            return f"its server can't be asked: {now.why}"
        if step.name not in {each.name for each in self._steps_of(now, step.model)}:
            return "it came into use, or is gone"
        try:
            return None if self.watch.tell(step) else "it is in use"
        except ServerError as error:
            self.watch.look()
            return f"its server refuses: {error}"

    def _steps_of(self, view: View, model: str | None) -> tuple[Step, ...]:
        steps = () if view.seen is None else self.watch.server.steps(view.seen)
        return tuple(each for each in steps if each.model == model)

    def _seen(self) -> Seen | None:
        view = self.watch.view
        return None if self._clock.now_ns() - view.at_ns > _STALE_NS else view.seen

    def _price(self, step: Step) -> tuple[float, str]:
        """Price a step: what having it again takes, by how often it is expected to be used.

        1. What the step itself says: nothing, for what is only kept for reuse.
        2. What loading the model took when it was last seen to.
        3. What the operator declared.
        4. Its size at a disk's pace.
        """
        about = f"{step.model} " if step.model is not None else ""
        learned = self.watch.learned(step.model or "")
        if step.rebuild_ms is not None:  # 1
            if step.rebuild_ms <= 0:
                return 0.0, f"{about}{step.name}"
            rebuild, how = step.rebuild_ms, f"{step.rebuild_ms:.0f} ms to have it again"
        elif learned.load_ms is not None:  # 2
            rebuild, how = learned.load_ms, f"{learned.load_ms:.0f} ms to load, as seen"
        elif self._reload_ms is not None:  # 3
            rebuild, how = self._reload_ms, f"{self._reload_ms:.0f} ms to load, as declared"
        else:  # 4
            rebuild = step.bytes / BYTES_PER_MS
            how = f"{rebuild:.0f} ms to load at 1 GiB/s: its load was not seen yet"
        uses = self.watch.uses.within(step.model or "", self._clock.now_ns())
        return rebuild * uses, f"{about}{step.name}: {how}, expected {uses:.2g}x in ten minutes"
