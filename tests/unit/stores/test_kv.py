"""Stores of kind kv: the longest beginning of a prompt, of its own model and scope alone; bounds; what goes first; tensors."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.vocabulary import StoreKind
from tests.unit.stores.stores import HERE, World
from worker.core.cancellation import CancelToken
from worker.core.tensor_file import Part, packed, unpacked
from worker.plugins import InvalidRequestError, LimitExceededError, Offer, UnsupportedError
from worker.stores.base import Choice, Content, Form, Item, Options, Question, Scope
from worker.stores.host import HostStores
from worker.stores.kv import KvStore

TENSORS = packed({"k": Part("U8", (4,), b"abcd")}, {})


def opened(world: World, scope: Scope = HERE, **options: Any) -> KvStore:
    """Open a store."""
    store = world.stores.open("prefixes", scope, StoreKind.KV, Options(**options)).store
    assert isinstance(store, KvStore)
    return store


def of(model: str, *tokens: int, data: bytes = TENSORS, **more: Any) -> Item:
    """Return what a model made of tokens."""
    return Item(model, Content(data, Form.BYTES), tokens=tokens, **more)


def sized(size: int) -> bytes:
    """Return tensors of so many bytes."""
    return packed({"k": Part("U8", (size,), bytes(size))}, {})


def lengths(store: KvStore, model: str, *tokens: int, tags: tuple[str, ...] = ()) -> list[float]:
    """Return of how many tokens the entries are that a prompt begins with."""
    question = Question(None, None, 1000, tags, tokens=tokens, model=model)
    return [each.score for each in store.search(question)]


# ---- what is found ----

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
WHERE = st.tuples(
    st.sampled_from([HERE, Scope("a_b", "c"), Scope("a", "b_c")]), st.sampled_from(["m", "m//", "m//0"])
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "find", "delete", "restart", "clear"]), WHERE, TOKENS), max_size=30
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, persist=st.sampled_from([False, False, False, True]))
def test_a_prompt_finds_what_it_begins_with_and_nothing_of_another_model_or_scope(
    steps: list[Any], persist: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a dictionary of all that was put says, looked through one by one; after a restart, too."""
    world = World(tmp_path_factory.mktemp("kv") if persist else None)
    kept: dict[tuple[Scope, str], set[tuple[int, ...]]] = {}
    for step, (scope, model), tokens in steps:
        store, mine = opened(world, scope, persist=persist or None), kept.setdefault((scope, model), set())
        if step == "put":
            assert store.put(of(model, *tokens)).reason is None
            mine.add(tokens)
        elif step == "find":
            wanted = sorted((len(each) for each in mine if tokens[: len(each)] == each), reverse=True)
            assert lengths(store, model, *tokens) == wanted
        elif step == "delete":
            for hit in store.search(Question(None, None, 1, tokens=tokens, model=model)):
                assert store.delete(Choice(key=hit.key)).entries == 1
                mine.remove(tokens[: int(hit.score)])
        elif step == "clear":
            store.clear()
            for key in [key for key in kept if key[0] == scope]:
                kept[key].clear()
        elif persist:
            world.stores.close()
            world.stores = world.made()
    for (scope, model), mine in kept.items():
        store = opened(world, scope, persist=persist or None)
        for tokens in mine:
            assert len(tokens) in lengths(store, model, *tokens, 9, 9)
    world.stores.close()


def test_what_is_got_is_a_copy_of_what_was_put_and_counts_what_it_saved() -> None:
    """A use saves what the maker said that making it took."""
    store = opened(World())
    store.put(of("m", 1, 2, 3, cost_ms=40))
    (hit,) = store.search(Question(None, None, 10, tokens=(1, 2, 3, 4), model="m"))
    first, second = store.get(hit.key), store.get(hit.key)
    assert first is not None
    assert second is not None
    assert (bytes(first.content.data), first.content.form) == (TENSORS, Form.BYTES)
    assert first.content.data is not second.content.data
    assert lengths(store, "m", 7) == []
    figures = store.figures()
    assert (figures.hits, figures.misses, figures.saved_ms) == (2, 1, 80)


def test_tags_choose_among_beginnings_and_times_end_them() -> None:
    """As in every store."""
    world = World()
    store = opened(world, ttl_ms=1000)
    store.put(of("m", 1, tags=("system",)))
    store.put(of("m", 1, 2))
    assert lengths(store, "m", 1, 2, 3) == [2, 1]
    assert lengths(store, "m", 1, 2, 3, tags=("system",)) == [1]
    world.clock.move(1000)
    assert lengths(store, "m", 1, 2, 3) == []


@pytest.mark.parametrize(
    ("item", "place", "said"),
    [
        (Item("m", Content(TENSORS, Form.BYTES)), "data.tokens", "say which"),
        (of("m", 1, data=b"no tensors"), "data.allocation_id", "safetensors"),
        (of("m", 1, data=TENSORS[:-1]), "data.allocation_id", "the tensors have 4 bytes, and there are 3"),
        (Item("m", Content(b"{}"), tokens=(1,)), "data.allocation_id", "JSON"),
        (of("m" * 1000, 1), "data.key", "979"),
        (of("m", 1, vector=(1.0,)), "data.vector", "keeps none"),
    ],
)
def test_what_is_no_beginning_is_refused(item: Item, place: str, said: str) -> None:
    """The field is named, and nothing is stored."""
    store = opened(World())
    with pytest.raises(InvalidRequestError) as refused:
        store.put(item)
    ((where, why),) = [(each["path"], each["message"]) for each in refused.value.details["errors"]]
    assert where == place
    assert said in why
    assert store.figures().entry_count == 0


@pytest.mark.parametrize(
    "kind", [StoreKind.CACHE, StoreKind.SESSIONS, StoreKind.VECTORS, StoreKind.DOCUMENTS]
)
def test_other_kinds_have_no_tokens(kind: StoreKind) -> None:
    """Neither are they put, nor searched for; and a store of this kind is searched by nothing else."""
    world = World()
    other = world.stores.open("x", HERE, kind, Options()).store
    with pytest.raises(InvalidRequestError, match=r"tokens|text|vector"):
        other.put(Item("m", Content(b'{"text":"a"}'), tokens=(1,)))
    with pytest.raises(UnsupportedError):
        other.search(Question(None, None, 1, tokens=(1,), model="m"))
    with pytest.raises(UnsupportedError, match="by tokens"):
        opened(world).search(Question(None, "text", 1))


# ---- bounds, and what goes first ----


def chain_of(store: KvStore, model: str, count: int, size: int = 4096, **more: Any) -> None:
    """Put blocks of one token each: of one token, of two, and so on."""
    for length in range(1, count + 1):
        store.put(of(model, *range(length), data=sized(size), goes_on=True, **more))


def whole(found: list[float]) -> bool:
    """Tell whether beginnings are of one token, of two, and so on, without a gap."""
    return sorted(found) == [*range(1, len(found) + 1)]


@pytest.mark.parametrize("persist", [False, True])
def test_of_a_chain_its_end_goes_first(persist: bool, tmp_path: Path) -> None:
    """Without its beginning the rest is of no use: whatever the bound takes, what is left is a beginning without gaps."""
    world = World(tmp_path)
    store = opened(world, max_bytes=40 * 5000, persist=persist or None)
    for number in range(6):
        chain_of(store, f"m{number}", 16, cost_ms=5)
        for other in range(number + 1):
            assert whole(lengths(store, f"m{other}", *range(16))), other
    assert store.figures().evictions > 0
    world.stores.close()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_of_what_is_asked_back_chains_keep_their_beginnings(share: float) -> None:
    """When memory is short, the offers name what no other goes on from, and as much comes back as they say."""
    world = World()
    store = opened(world)
    for number in range(8):
        chain_of(store, f"m{number}", 12, cost_ms=number + 1)
    kind = world.consumers.by_id["store:kv:prefixes"]
    need = int(kind.held_bytes * share)
    offers: tuple[Offer, ...] = kind.offers(need)
    assert sum(each.bytes for each in offers) >= min(need, kind.held_bytes)
    for offer in offers:
        before = kind.held_bytes
        assert kind.release(offer, CancelToken(world.clock.now_ns)) == before - kind.held_bytes >= offer.bytes
        assert all(whole(lengths(store, f"m{number}", *range(12))) for number in range(8))


@settings(max_examples=40, deadline=None)
@given(
    puts=st.lists(st.tuples(st.sampled_from("abc"), TOKENS, st.integers(1, 9000)), max_size=60),
    bound=st.integers(2_000, 40_000),
)
def test_bytes_stay_within_the_bound_after_any_sequence(puts: list[Any], bound: int) -> None:
    """Each entry counts with what is kept about it; one above the bound is refused, and nothing goes for it."""
    world = World()
    store = opened(world, max_bytes=bound)
    for model, tokens, size in puts:
        before = store.figures()
        try:
            store.put(of(model, *tokens, data=sized(size), cost_ms=size % 7))
        except LimitExceededError:
            assert store.figures() == before
        assert store.figures().held_bytes <= bound
    for first, second in pairwise("abc"):
        store.delete(Choice(prefix=f"{first}//"))
        assert lengths(store, first, *range(3)) == []
        store.delete(Choice(prefix=f"{second}//"))
    assert store.clear().bytes == store.figures().held_bytes == 0


def test_what_persists_leaves_memory_first_and_is_read_back(tmp_path: Path) -> None:
    """Under pressure all of it is offered at the price of reading it; it is found as before."""
    world = World(tmp_path)
    store = opened(world, persist=True)
    chain_of(store, "m", 20, cost_ms=1000)
    kind = world.consumers.by_id["store:kv:prefixes"]
    for offer in kind.offers(kind.held_bytes):
        kind.release(offer, CancelToken(world.clock.now_ns))
    assert store.figures().held_bytes < 20 * 1024
    assert len(lengths(store, "m", *range(20))) == 20
    (longest, *_) = store.search(Question(None, None, 1, tokens=tuple(range(20)), model="m"))
    found = store.get(longest.key)
    assert found is not None
    assert bytes(found.content.data) == sized(4096)
    world.stores.close()


def test_what_has_all_makes_room_for_what_is_longer() -> None:
    """A prompt that grows is not refused for what it was before: that is no part of it. A chain that has no room is."""
    store = opened(World(), max_bytes=10_000)
    for length in (1, 2, 3):
        assert store.put(of("m", *range(length), data=sized(6000), cost_ms=length)).reason is None
        assert lengths(store, "m", *range(9)) == [length]
    store.clear()
    assert store.put(of("m", 0, data=sized(6000), goes_on=True)).reason is None
    refused = store.put(of("m", 0, 1, data=sized(6000), goes_on=True))
    assert refused.reason is not None
    assert "that it goes on from" in refused.reason
    assert lengths(store, "m", 0, 1) == [1]


def test_an_entry_that_goes_on_and_one_that_has_all_are_two() -> None:
    """Neither is taken for the other; both are found."""
    store = opened(World())
    store.put(of("m", 1, 2))
    store.put(of("m", 1, 2, goes_on=True))
    assert lengths(store, "m", 1, 2, 3) == [2, 2]
    ((_, whole),), ((_, going_on),) = store.wholes("m", [1, 2, 3]), store.chain("m", [1, 2, 3])
    assert (whole == going_on, whole.replace("-", "+") == going_on) == (False, True)


# ---- as a plugin uses it ----


def test_tensors_of_torch_and_numpy_come_back_as_they_were() -> None:
    """Any type that the framework has; what is handed out is nobody else's."""
    kv = HostStores(World().stores).kv("prefixes", bytes="4MiB")
    both = torch.arange(12.0, requires_grad=True).reshape(2, 3, 2)
    past = {"k.0": both[0].to(torch.bfloat16), "v.0": torch.ones(3, 2).T, "k.1": both[0], "v.1": both[1]}
    assert kv.put(HERE, "m", [1, 2], past, cost_ms=3)
    found = kv.longest(HERE, "m", [1, 2, 3], framework="torch")
    assert found is not None
    assert found.length == 2
    assert all(
        torch.equal(found.tensors[name], each) and found.tensors[name].dtype == each.dtype
        for name, each in past.items()
    )
    found.tensors["v.0"].zero_()
    again = kv.longest(HERE, "m", [1, 2], framework="torch")
    assert again is not None
    assert torch.equal(again.tensors["v.0"], past["v.0"])
    assert kv.put(HERE, "n", [1], {"k": np.eye(2, dtype=np.float16)[:, ::-1]})
    array = kv.longest(HERE, "n", (1,))
    assert array is not None
    np.testing.assert_array_equal(array.tensors["k"], [[0, 1], [1, 0]])
    assert kv.longest(HERE, "n", [2]) is kv.longest(("other", "default"), "m", [1, 2]) is None
    assert (kv.delete(HERE, prefix="m//"), kv.longest(HERE, "m", [1, 2])) == (1, None)


def test_what_are_no_tensors_is_refused_with_what_is_wanted() -> None:
    """A list is no tensor, and a mixture is neither framework's."""
    kv = HostStores(World().stores).kv("prefixes")
    for wrong in ({"k": [1]}, {"k": torch.ones(1), "v": np.ones(1)}):
        with pytest.raises(TypeError, match="torch alone"):
            kv.put(HERE, "m", [1], wrong)
    kv.put(HERE, "m", [1], {"k": np.ones(1)})
    with pytest.raises(ValueError, match="numpy or torch"):
        kv.longest(HERE, "m", [1], framework="jax")


# ---- the format ----


def test_the_format_is_that_of_the_library() -> None:
    """What is written is read by safetensors, and the other way round."""
    from safetensors import numpy as library

    ours = packed({"k": Part("F16", (2, 2), np.eye(2, dtype=np.float16).tobytes())}, {"of": "it"})
    np.testing.assert_array_equal(library.load(ours)["k"], np.eye(2))
    parts, said = unpacked(library.save({"k": np.arange(3.0)}, {"of": "it"}))
    assert ({name: (each.dtype, each.shape) for name, each in parts.items()}, said) == (
        {"k": ("F64", (3,))}, {"of": "it"},
    )  # fmt: skip


@settings(max_examples=60)
@given(
    data=st.binary(max_size=40)
    | st.builds(lambda text: (len(text)).to_bytes(8, "little") + text, st.binary(max_size=60))
)
def test_whatever_bytes_are_no_tensors_are_told_so(data: bytes) -> None:
    """No other error than the one that is expected."""
    try:
        parts, _ = unpacked(data)
    except ValueError:
        return
    assert sum(each.content.nbytes for each in parts.values() if isinstance(each.content, memoryview)) <= len(
        data
    )
