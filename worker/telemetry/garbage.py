"""What Python's collector does in this process: how often, and for how long everything else stands still."""

import gc
import time


class GarbageWatch:
    """Times each collection: some hundred nanoseconds each. Called back by whichever thread collects, one at a time."""

    def __init__(self) -> None:
        # All mutable state: when the collection under way began, and what the others took, in nanoseconds.
        self._began_ns = 0
        self._paused_ns = 0
        self._longest_ns = 0
        self._before = tuple(each["collections"] for each in gc.get_stats())
        gc.callbacks.append(self.called)

    def figures(self) -> tuple[tuple[int, ...], float, float]:
        """Return how often each generation was collected since, the youngest first, and the pauses: all, and the longest, in seconds."""
        now = (each["collections"] for each in gc.get_stats())
        done = tuple(count - before for count, before in zip(now, self._before, strict=True))
        return done, self._paused_ns / 1e9, self._longest_ns / 1e9

    def called(self, phase: str, _info: dict[str, int]) -> None:
        """Note that a collection begins or ends: Python calls it."""
        now = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now
            return
        took = now - self._began_ns
        self._paused_ns += took
        self._longest_ns = max(self._longest_ns, took)
