"""Due times by key: in order, one a key, and nothing left of what was removed."""

import random

from worker.core.due_times import DueTimes


def test_in_due_order() -> None:
    """What is due earlier comes first; among equals, what was set first."""
    times = DueTimes[str]()
    assert times.set("late", 30)
    assert times.set("early", 10)
    assert not times.set("middle", 20)
    assert not times.set("middle too", 20)
    assert times.pop_due(9) is None
    assert [times.pop_due(25) for _ in range(4)] == ["early", "middle", "middle too", None]
    assert times.next_ns() == 30


def test_one_time_a_key() -> None:
    """A key that is set again is due at the later call's time alone; one that is removed, never."""
    times = DueTimes[str]()
    for due_ns in (10, 30, 20, 20):
        times.set("a", due_ns)
    times.set("b", 5)
    times.remove("b")
    times.remove("b")
    assert (len(times), times.next_ns()) == (1, 20)
    assert [times.pop_due(100), times.pop_due(100)] == ["a", None]
    assert times.next_ns() is None


def test_memory_follows_the_live_keys() -> None:
    """However often keys are set anew or removed, the heap has room for little more than those that live."""
    times, rng, live = DueTimes[int](), random.Random(1), dict[int, int]()
    for turn in range(20_000):
        key = rng.randrange(100)
        if rng.random() < 0.6:
            live[key] = turn + rng.randrange(10**12)
            times.set(key, live[key])
        elif live.pop(key, None) is not None:
            times.remove(key)
        assert len(times._heap) <= 2 * len(live) + 64
    assert [times.pop_due(10**13) for _ in range(len(live))] == sorted(live, key=live.__getitem__)
