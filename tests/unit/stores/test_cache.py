"""Caches: bounded in bytes, the cheapest entries go first, and what is freed is back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vocabulary import StorePreset
from tests.unit.stores.stores import HERE, World, item
from worker.core.cancellation import CancelToken
from worker.eviction.reuse_rates import ReuseRates
from worker.plugins import InvalidRequestError, LimitExceededError, StoreNotFoundError, UnsupportedError
from worker.stores import giving
from worker.stores.base import Choice, Content, Question, Scope
from worker.stores.entry import ENTRY_BYTES, about_bytes

KIB = 1024


@pytest.fixture
def world() -> World:
    return World()


def token() -> CancelToken:
    return CancelToken(lambda: 0)


def test_what_was_put_is_got_as_a_copy(world: World) -> None:
    """Changing what was handed out, or what was handed in, changes nothing that is kept."""
    cache = world.cache()
    sent = bytearray(b"value")
    cache.put(item("a", bytes(sent)))
    cache.put(item("b", sent))
    sent[:] = b"other"
    found = cache.get("b")
    assert found is not None
    assert bytes(found.content.data) == b"value"
    assert cache.get("c") is None


def test_the_cheapest_entry_by_its_bytes_goes_first(world: World) -> None:
    """Room is made before an entry is taken, by what costs the least to make again."""
    cache = world.cache(max_bytes=4 * (KIB + ENTRY_BYTES + 1))
    for key, cost in (("a", 50), ("b", 5), ("c", 500), ("d", 40)):
        assert cache.put(item(key, bytes(KIB), cost_ms=cost)).evicted_entries == 0
    assert cache.put(item("e", bytes(KIB), cost_ms=60)).evicted_entries == 1
    assert [each.key for each in cache.page(None, 10).entries] == ["a", "c", "d", "e"]
    assert cache.figures().held_bytes == cache.limit_bytes


def test_an_offer_waits_for_nothing_to_be_learned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tended learns beside everything else; what is not, as where time stands still, when it is asked."""
    learned: list[str] = []
    original = ReuseRates.learn

    def learn(rates: ReuseRates) -> None:
        learned.append("learned")
        original(rates)

    monkeypatch.setattr(ReuseRates, "learn", learn)
    cache = world.cache()

    def fill() -> None:
        for number in range(200):
            cache.put(item(f"{len(learned)}-{number}", bytes(KIB)))

    fill()
    world.consumers.by_id["store:cache:answers"].offers(KIB)
    assert learned == ["learned"]
    world.stores.tend()
    fill()
    world.consumers.by_id["store:cache:answers"].offers(KIB)
    assert learned == ["learned"] * 2


def test_an_entry_that_is_replaced_counts_once(world: World) -> None:
    """Nothing goes for an entry that takes the place of its older self."""
    cache = world.cache(max_bytes=2 * (KIB + ENTRY_BYTES + 1))
    cache.put(item("a", bytes(KIB)))
    cache.put(item("b", bytes(KIB)))
    assert cache.put(item("a", bytes(KIB - 1))).evicted_entries == 0
    assert cache.figures().entry_count == 2


def test_an_entry_above_the_bound_is_refused_and_costs_nothing(world: World) -> None:
    """The one of that key, and all others, stay as they were."""
    cache = world.cache(max_bytes=8 * KIB)
    cache.put(item("a", b"1"))
    before = cache.figures()
    with pytest.raises(LimitExceededError, match="max_bytes"):
        cache.put(item("a", bytes(8 * KIB)))
    assert cache.figures() == before
    found = cache.get("a")
    assert found is not None
    assert found.content.data == b"1"


def test_entries_end_when_their_time_is_over(world: World) -> None:
    """An entry's own lifetime counts before the store's; what ended is not found, listed or counted."""
    cache = world.cache(ttl_ms=1000)
    cache.put(item("store's", tags=("t",)))
    cache.put(item("its own", ttl_ms=5000))
    world.clock.move(999)
    assert cache.get("store's") is not None
    world.clock.move(1)
    assert cache.get("store's") is None
    assert [each.key for each in cache.page(None, 10).entries] == ["its own"]
    assert cache.figures().entry_count == 1
    world.clock.move(4000)
    cache.put(item("new"))
    assert cache.figures().held_bytes == 1 + 3 + ENTRY_BYTES


def test_presets_are_what_they_say_and_options_beside_them_count(world: World) -> None:
    """``responses`` is 50 entries for 300 s."""
    cache = world.cache(preset=StorePreset.RESPONSES)
    for number in range(60):
        cache.put(item(str(number)))
    assert cache.figures().entry_count == 50
    assert cache.page(None, 1).entries[0].expires_in_ms == 300_000
    other = world.cache("rag", preset=StorePreset.RAG, max_entries=3)
    for number in range(60):
        other.put(item(str(number)))
    assert other.figures().entry_count == 3
    assert other.page(None, 1).entries[0].expires_in_ms == 180_000


def test_tags_and_prefixes_delete_what_has_them_and_no_more(world: World) -> None:
    """What is deleted is counted, and its tags are forgotten with it."""
    cache = world.cache()
    cache.put(item("a/1", tags=("x", "y", "x")))
    cache.put(item("a/2", tags=("y",)))
    cache.put(item("b/1", tags=("x",)))
    assert cache.delete(Choice(tag="x")).entries == 2
    assert cache.delete(Choice(tag="x")).entries == 0
    cache.put(item("ab"))
    deleted = cache.delete(Choice(prefix="a/"))
    assert (deleted.entries, deleted.bytes) == (1, 1 + about_bytes("a/2", ("y",)))
    assert cache.delete(Choice(key="ab")).entries == 1
    assert cache.delete(Choice(key="ab")).entries == 0
    assert cache.figures().held_bytes == 0


def test_pages_follow_each_other_by_key(world: World) -> None:
    """Whatever goes or comes between two pages, none is listed twice."""
    cache = world.cache()
    for key in ("d", "b", "a", "c"):
        cache.put(item(key))
    page = cache.page(None, 2)
    assert ([each.key for each in page.entries], page.next) == (["a", "b"], "b")
    cache.delete(Choice(key="b"))
    page = cache.page(page.next, 2)
    assert ([each.key for each in page.entries], page.next) == (["c", "d"], None)


def test_it_is_not_searched_and_has_no_vectors(world: World) -> None:
    """What a kind can't do is said, not passed over."""
    with pytest.raises(UnsupportedError):
        world.cache().search(Question(None, "a", 10))
    with pytest.raises(InvalidRequestError, match="dimensions"):
        world.cache("near", dimensions=3)
    with pytest.raises(StoreNotFoundError):
        world.stores.get("near", HERE)


def test_hits_misses_and_what_they_saved_are_counted(world: World) -> None:
    """``saved_ms`` is what the hits would have cost to make."""
    cache = world.cache()
    cache.put(item("a", cost_ms=12.5))
    cache.get("a"), cache.get("a"), cache.get("b")
    figures = world.stores.stats(None, HERE)
    assert (figures.hits, figures.misses, figures.saved_ms) == (2, 1, 25.0)


def test_it_gives_back_what_it_offered_and_grows_no_more_than_its_limit(world: World) -> None:
    """A consumer as all others: offers are the cheapest entries, a limit holds until it rises again."""
    cache = world.cache()
    kind = world.consumers.by_id["store:cache:answers"]
    for number in range(100):
        cache.put(item(str(number), bytes(64 * KIB), cost_ms=number))
    held = kind.holding().held_bytes
    offers = kind.offers(held // 2)
    assert sum(each.bytes for each in offers) >= held // 2
    assert [each.cost_ms / each.bytes for each in offers] == sorted(
        each.cost_ms / each.bytes for each in offers
    )
    released = sum(kind.release(each, token()) for each in offers)
    assert held - kind.holding().held_bytes == released >= held // 2
    assert kind.memory.held_bytes - kind.memory.spare_bytes <= kind.memory.alive_bytes * 65 // 64
    assert [kind.release(each, token()) for each in offers] == [0] * len(offers)
    limit = kind.holding().held_bytes
    kind.limit_changed(limit, "memory is short")
    for number in range(200, 300):
        assert cache.put(item(str(number), bytes(64 * KIB), cost_ms=number)).reason is None
        assert kind.holding().held_bytes <= limit
    kind.limit_changed(KIB, "memory is short")
    assert cache.put(item("more", bytes(2 * KIB))).reason is not None
    kind.limit_changed(None, "it is not")
    before = cache.figures().entry_count
    assert cache.put(item("more", bytes(2 * KIB))).reason is None
    assert cache.figures().entry_count == before + 1


def test_a_store_that_is_closed_is_no_consumer_any_more(world: World) -> None:
    """Its memory is back, and the name can be opened as another kind."""
    world.cache(scope=Scope("ann", "p")).put(item("a", bytes(KIB)))
    cache = world.cache()
    cache.put(item("a", bytes(KIB)))
    world.stores.close_store("answers", HERE)
    assert "store:cache:answers" in world.consumers.by_id
    cleared = world.stores.close_store("answers", Scope("ann", "p"))
    assert cleared.bytes == KIB + 1 + ENTRY_BYTES
    assert cleared.returned_bytes >= KIB
    assert not world.consumers.by_id


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["put", "get", "delete", "tag", "release", "limit", "configure", "wait", "clear"]
            ),
            st.integers(0, 20),
            st.integers(0, 9000),
        ),
        max_size=60,
    )
)
def test_bounds_hold_after_any_sequence(steps: list[tuple[str, int, int]]) -> None:
    """Never more bytes than the bound, in the store, in its kind, and by its entries one by one; memory follows."""
    world = World()
    bound = 40_000
    cache: Any = world.cache(max_bytes=bound, max_entries=12)
    kind = world.consumers.by_id["store:cache:answers"]
    for step, number, size in steps:
        key = f"k{number}"
        if step == "put":
            cache.put(item(key, bytes(size), cost_ms=size % 97, tags=(f"t{number % 3}",), ttl_ms=size + 1))
        elif step == "get":
            cache.get(key)
        elif step == "delete":
            cache.delete(Choice(key=key))
        elif step == "tag":
            cache.delete(Choice(tag=f"t{number % 3}"))
        elif step == "release":
            for offer in kind.offers(size):
                kind.release(offer, token())
        elif step == "limit":
            kind.limit_changed(size * 4 if size % 2 else None, "")
        elif step == "configure":
            bound = 10_000 + size * 4
            cache = world.cache(max_bytes=bound, max_entries=12)
        elif step == "wait":
            world.clock.move(size)
        else:
            cache.clear()
        entries = list(cache._table)
        assert (
            cache.held_bytes == cache._table.total_bytes == sum(each.entry_bytes for each in entries) <= bound
        )
        assert kind.held_bytes == cache.held_bytes
        assert len(entries) <= 12
        assert kind.memory.alive_bytes == sum(each.record_bytes for each in entries)
        assert kind.memory.given_bytes == cache.held_bytes
        assert [each.key for each in entries] == [cache._table.get(each.key).key for each in entries]
    for each in list(cache._table):
        found = cache.get(each.key)
        assert found is None or found.content == Content(bytes(each.content_bytes))


def test_a_name_that_a_hosts_consumer_has_is_refused(world: World) -> None:
    """Nothing of the store is left; once the host's is gone, it opens."""
    world.consumers.by_id["store:cache:answers"] = "a host's"
    with pytest.raises(InvalidRequestError, match="store"):
        world.cache()
    del world.consumers.by_id["store:cache:answers"]
    assert world.cache().put(item("a")).reason is None


def test_of_many_entries_whole_segments_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offer looks at some of each, and what is released is the cheapest all the same."""
    monkeypatch.setattr(giving, "_PRICED", 64)
    monkeypatch.setattr("worker.stores.segments.SEGMENT_BYTES", 128 * KIB)
    cache = world.cache()
    kind = world.consumers.by_id["store:cache:answers"]
    for number in range(1000):
        cache.put(item(str(number), bytes(8 * KIB), cost_ms=1 + number % 100))
    held = kind.holding().held_bytes
    offers = kind.offers(held // 2)
    one = max(each.size for each in kind.memory.segments.values())
    assert held // 2 <= sum(each.bytes for each in offers) < held // 2 + one
    released = sum(kind.release(each, token()) for each in offers)
    assert released == held - kind.holding().held_bytes
    assert held // 2 <= released < held // 2 + one + 8 * KIB
    assert kind.memory.held_bytes - kind.memory.spare_bytes <= kind.memory.alive_bytes * 65 // 64
    left = [int(each.key) % 100 for each in cache.page(None, 1000).entries]
    assert sum(left) / len(left) > 70  # of those that stay, 74.5 at best and 49.5 by chance


@pytest.mark.parametrize(
    ("count", "size"), [(40, 200 * KIB), (60, 9 * KIB), (30, 1000 * KIB), (500, 40 * KIB)]
)
def test_one_price_is_told_for_the_next_mib(world: World, count: int, size: int) -> None:
    """What a store's figures say is what its consumer offers first."""
    cache = world.cache()
    for number in range(count):
        cache.put(item(str(number), bytes(size), cost_ms=1 + number))
    cache.figures()
    first = world.consumers.by_id["store:cache:answers"].offers(0)[0]
    assert first.cost_ms * 2**20 / first.bytes == pytest.approx(cache.figures().price_ms_per_mib)


def test_what_is_put_together_says_no_number_of_its_parts(world: World) -> None:
    """Several offers may be told of as one."""
    cache = world.cache()
    for number in range(120):
        cache.put(item(str(number), bytes(2**20), cost_ms=number))
    offers = world.consumers.by_id["store:cache:answers"].offers(100 * 2**20)
    assert {each.reason for each in offers} == {"entries that are the cheapest to make again"}
