"""The histogram: how narrow its buckets are, and how near its quantiles."""

from hypothesis import given
from hypothesis import strategies as st

from worker.metrics.histogram import bucket, highest_value, merge, quantile


@given(st.integers(0, 2**62))
def test_bucket_is_narrow(value: int) -> None:
    """A bucket's highest value is at most 1/32 above any value in it, and values below 64 are exact."""
    highest = highest_value(bucket(value))
    assert value <= highest <= value + value / 32
    assert bucket(highest) == bucket(value)
    assert bucket(highest + 1) == bucket(value) + 1


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0])
)
def test_quantile_error(values: list[int], fraction: float) -> None:
    """A quantile is within 1/32 of the exact one, never below it."""
    counts: dict[int, int] = {}
    for value in values:
        merge(counts, {bucket(value): 1})
    exact = next(value for rank, value in enumerate(sorted(values), 1) if rank >= fraction * len(values))
    found = quantile(counts, fraction)
    assert found is not None
    assert exact <= found <= exact * (1 + 1 / 32)


def test_quantile_of_nothing() -> None:
    """No values have no quantile: null, not 0."""
    assert quantile({}, 0.5) is None
