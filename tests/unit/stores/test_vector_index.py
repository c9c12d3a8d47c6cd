"""The nearest vectors are exactly those of what is stored, in an order that hangs on nothing else, and rows that go are back."""

import mmap
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import VectorMetric
from worker.stores.vector_index import VectorError, VectorIndex
from worker.stores.vector_rows import LARGEST, SMALLEST, Rows

COSINE, DOT, L2 = VectorMetric.COSINE, VectorMetric.DOT, VectorMetric.L2
ALL = (COSINE, DOT, L2)


def put(index: VectorIndex, key: str, vector: Any) -> None:
    """Store a vector, checked."""
    index.put(key, index.pack(index.checked(vector)))


def search(index: VectorIndex, vector: Any, limit: int = 10, **more: Any) -> list[tuple[str, float]]:
    """Search for a vector, checked."""
    found = index.search(index.checked(vector), limit, **more)
    assert found is not None
    return found


def filled(vectors: Any, metric: VectorMetric = COSINE) -> VectorIndex:
    """Return an index of vectors, by their numbers."""
    index = VectorIndex(len(vectors[0]), metric)
    for number, vector in enumerate(vectors):
        put(index, f"{number:05}", vector)
    return index


def score_of(metric: VectorMetric, vector: Any, other: Any) -> float:
    """Return a score by its definition."""
    one, two = np.asarray(vector, np.float64), np.asarray(other, np.float64)
    if metric is L2:
        return -float(np.linalg.norm(one - two))
    product = float(one @ two)
    return product if metric is DOT else product / float(np.linalg.norm(one) * np.linalg.norm(two))


@pytest.mark.parametrize("metric", ALL)
def test_the_nearest_first_and_higher_is_nearer(metric: VectorMetric) -> None:
    """Each metric's score is what its definition says, to the precision of what is stored."""
    vectors = [[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [-1, 0, 0]]
    found = search(filled(vectors, metric), [1, 0.05, 0], 4)
    wanted = sorted(
        ((score_of(metric, [1, 0.05, 0], v), f"{i:05}") for i, v in enumerate(vectors)), reverse=True
    )
    assert [key for key, _ in found] == [key for _, key in wanted]
    assert [score for _, score in found] == pytest.approx([score for score, _ in wanted], abs=1e-3)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("dimensions", [1, 2, 7, 384, 1537])
def test_recall_of_float32_is_shown(metric: VectorMetric, dimensions: int) -> None:
    """Of the ten nearest by float32, at least 99.5 % are found, and so many that are no nearer than the tenth."""
    chance = np.random.default_rng(1)
    vectors = chance.standard_normal((1500, dimensions)).astype(np.float32)
    index, hits = filled(vectors, metric), 0
    for query in chance.standard_normal((40, dimensions)).astype(np.float32):
        scores = np.array([score_of(metric, query, each) for each in vectors])
        tenth = np.sort(scores)[-10]
        found = search(index, query)
        off = 2e-3 * float(np.linalg.norm(query) if metric is not COSINE else 1) * 4
        hits += sum(scores[int(key)] >= tenth - 1e-9 for key, _ in found)
        assert all(abs(score - scores[int(key)]) < off for key, score in found)
    assert hits >= 0.995 * 400 or dimensions < 7, hits  # of few dimensions, many are as near as the tenth


class Model:
    """What an index is to hold, and to find."""

    def __init__(self, metric: VectorMetric, dimensions: int) -> None:
        self.index = VectorIndex(dimensions, metric)
        self.stored: dict[str, np.ndarray[Any, Any]] = {}
        self.metric = metric

    def put(self, key: str, vector: list[float]) -> None:
        put(self.index, key, vector)
        # As it is stored: in steps, of which the largest component has 32,767.
        given = np.asarray(vector, np.float64)
        scale = np.float64(np.float32(np.abs(given).max())) / 32767 if np.abs(given).max() > 1e-30 else 0.0
        self.stored[key] = np.rint(given / scale) * scale if scale else given * 0

    def check(self, query: list[float], limit: int, among: set[str] | None) -> None:
        found = search(self.index, query, limit, among=among)
        there = {key: each for key, each in self.stored.items() if among is None or key in among}
        scores = {key: score_of(self.metric, query, each) for key, each in there.items()}
        assert len(found) == min(limit, len(there)) == len({key for key, _ in found})
        for key, score in found:
            assert score == pytest.approx(scores[key], rel=1e-9, abs=1e-9 * (1 + abs(score)))
        least = min((score for _, score in found), default=0.0)
        left_out = [score for key, score in scores.items() if key not in dict(found)]
        assert not limit or all(score <= least + 1e-9 * (1 + abs(least)) for score in left_out)
        assert found == sorted(found, key=lambda each: (-each[1], each[0]))
        assert self.index.count == len(self.stored)
        assert self.index.held_bytes == len(self.stored) * self.index._rows.row_bytes


NUMBERS = st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0, 1e-9, 6e4, 1e9]) | st.floats(
    -1e6, 1e6, width=32
)
KEYS = st.sampled_from("abcdefgh")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(ALL), st.integers(1, 5))
def test_any_sequence_of_changes_finds_what_is_stored(
    data: st.DataObject, metric: VectorMetric, size: int
) -> None:
    """After puts, replacements and removals, the answer is that of a plain search in float64 through what is there."""
    vectors = st.lists(NUMBERS, min_size=size, max_size=size)
    if metric is COSINE:
        vectors = vectors.filter(lambda each: max(map(abs, each)) > SMALLEST)
    model = Model(metric, size)
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.booleans()) or not model.stored:
            model.put(data.draw(KEYS), data.draw(vectors))
        else:
            key = data.draw(st.sampled_from(sorted(model.stored)))
            assert model.index.remove(key)
            del model.stored[key]
        among = data.draw(st.none() | st.sets(KEYS))
        model.check(data.draw(vectors), data.draw(st.integers(0, 9)), among)
    assert not model.index.remove("never there")


@pytest.mark.parametrize("metric", ALL)
def test_equal_scores_are_ordered_by_their_keys_wherever_they_lie(metric: VectorMetric) -> None:
    """The same vectors in any order, and after removals, give the same answer to the bit."""
    chance = np.random.default_rng(2)
    some = chance.standard_normal((30, 33))
    vectors = {f"k{number:03}": some[number % 30] for number in range(900)}
    answers = []
    for seed in range(3):
        order = sorted(vectors)
        np.random.default_rng(seed).shuffle(order)
        index = VectorIndex(33, metric)
        for key in (*order, "gone"):
            put(index, key, vectors.get(key, some[0]))
        index.remove("gone")
        answers.append(search(index, some[4], 50))
    assert answers[0] == answers[1] == answers[2]
    assert [key for key, _ in answers[0][:30]] == [f"k{number:03}" for number in range(4, 900, 30)]


@pytest.mark.parametrize(
    ("vector", "why"),
    [
        ([1.0, 2.0], "has 2 dimensions, and the store's vectors have 3"),
        ([[1.0, 2.0, 3.0]], "has 1 x 3 dimensions"),
        ([1.0, float("nan"), 0.0], "no number, infinite"),
        ([float("inf"), 0.0, 0.0], "no number, infinite"),
        ([10 * LARGEST, 0.0, 0.0], "beyond 1e"),
        (["a", 0.0, 0.0], "no list of numbers"),
        ([10**400, 0, 0], "no list of numbers"),
    ],
)
def test_what_is_no_vector_is_refused(vector: Any, why: str) -> None:
    """The error says what is wrong with it."""
    for metric in ALL:
        with pytest.raises(VectorError, match=why):
            VectorIndex(3, metric).checked(vector)


def test_zeros_have_no_direction() -> None:
    """Cosine refuses them; the other metrics define their answers."""
    with pytest.raises(VectorError, match="no direction"):
        VectorIndex(2, COSINE).checked([0, 0])
    for metric, score in ((DOT, 0.0), (L2, -1.0)):
        assert search(filled([[0.0, 0.0]], metric), [0, 1]) == [("00000", score)]


@pytest.mark.parametrize("size", [1e-25, 1e-3, 1.0, 1e5, 1e29])
def test_values_of_any_size_keep_their_precision(size: float) -> None:
    """A row is kept by its largest component, so that none overflows, and small ones are as exact as large ones."""
    chance = np.random.default_rng(3)
    vectors = chance.standard_normal((50, 16)) * size
    found = search(filled(vectors, L2), vectors[7], 1)
    assert found[0][0] == "00007"
    assert abs(found[0][1]) < 2e-3 * size


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux does")
def test_rows_that_go_give_their_pages_back() -> None:
    """As the system counts them: after most are removed, one by one, only the pages of the rest are in memory."""
    from worker.backends.host_memory import address_of, resident_bytes

    rows = Rows(384)
    for number in range(5000):
        rows.add(rows.pack(np.full(384, number + 1.0)))

    def resident() -> int:
        return sum(resident_bytes(address_of(b._map), len(b._map)) or 0 for b in rows._blocks)

    full = resident()
    assert rows.held_bytes <= full <= rows.held_bytes + 2 * mmap.PAGESIZE * len(rows._blocks)
    while rows.count > 100:
        rows.remove(rows.count // 2)
    assert resident() <= rows.held_bytes + 2 * mmap.PAGESIZE
    rows.close()
    assert (resident(), rows.held_bytes) == (0, 0)


def test_a_row_that_is_read_back_is_the_same_to_the_bit() -> None:
    """What is kept elsewhere meanwhile is found with the same score."""
    vectors = np.random.default_rng(4).standard_normal((20, 9))
    index, again = filled(vectors), VectorIndex(9, COSINE)
    for number in range(20):
        again.put(f"{number:05}", index.row(f"{number:05}") or b"")
    assert search(index, vectors[3]) == search(again, vectors[3])
    assert index.row("never there") is None


def test_one_that_was_closed_finds_nothing_rather_than_too_little() -> None:
    """Whoever searches meanwhile is told so, and can look where the vectors are now."""
    index = filled([[1, 0], [0, 1]])
    index.close()
    assert index.search(index.checked([1, 0]), 5) is None
    assert index.held_bytes == 0
