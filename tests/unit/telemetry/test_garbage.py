"""Python's collector, watched: what it did since, and how long all else stood still."""

import gc

from worker.telemetry.garbage import GarbageWatch


def test_collections_are_counted_and_timed() -> None:
    """By generation, and from when the watch began."""
    gc.collect()
    watch = GarbageWatch()
    try:
        (young, _, old), paused, longest = watch.figures()
        assert old == 0
        for _ in range(3):
            gc.collect()
        gc.collect(0)
        after, paused_after, longest_after = watch.figures()
        assert after[2] == 3
        assert after[0] > young
        assert paused_after > paused
        assert paused_after >= longest_after >= longest
        assert longest_after > 0
    finally:
        gc.callbacks.remove(watch.called)
