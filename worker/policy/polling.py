"""When to sample a device again. Pure."""

from worker.core.clock import NS_PER_MS, NS_PER_S

SOONEST_NS = 50 * NS_PER_MS
CALM_NS = 5 * NS_PER_S
NEAR_NS = 500 * NS_PER_MS
TIDY_NS = NS_PER_S
"""Where something is kept for reuse, it is sampled this often whether it still is."""

NEAR_SHARE = 0.02
"""A threshold is near when less than this share of the budget is left up to it."""

_SAMPLES_AHEAD = 8
"""How often it is sampled before a threshold can be reached at the present speed."""


def next_sample_ns(
    to_threshold_bytes: int | None, budget_bytes: int | None, bytes_per_second: float, *, cached: bool
) -> int:
    """Return how long to wait.

    1. By the speed: so that there are several samples before the next threshold is reached.
    2. Close to it: twice a second, also while nothing moves.
    3. With caches to tidy up: every second.
    4. Calm: every five seconds.
    """
    waits = [CALM_NS]  # 4
    if to_threshold_bytes is not None and budget_bytes:
        if bytes_per_second > 0:  # 1
            waits.append(int(to_threshold_bytes / bytes_per_second / _SAMPLES_AHEAD * NS_PER_S))
        if to_threshold_bytes < NEAR_SHARE * budget_bytes:  # 2
            waits.append(NEAR_NS)
    if cached:  # 3
        waits.append(TIDY_NS)
    return max(SOONEST_NS, min(waits))
