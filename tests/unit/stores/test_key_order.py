"""The order of keys is theirs, whatever came and went since it was made; also where two have one hash."""

import hypothesis.strategies as st
from hypothesis import given

from tests.unit.stores.stores import World, item
from worker.stores.base import Choice
from worker.stores.key_order import KeyOrder


class Keys:
    """Keys by their hashes."""

    def __init__(self) -> None:
        self.by_name: dict[int, list[bytes]] = {}

    def pairs(self) -> list[tuple[bytes, int]]:
        """Return all."""
        return [(key, name) for name, keys in self.by_name.items() for key in keys]

    def keys_of(self, name: int) -> list[bytes]:
        """Return a hash's."""
        return self.by_name.get(name, [])


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove", "look", "drop"]), st.integers(0, 30)), max_size=300
)


@given(STEPS, st.sampled_from([2**64 - 59, 11]))
def test_it_is_as_sorted_anew(steps: list[tuple[str, int]], hashes: int) -> None:
    """With a hash each, and with several of one."""
    keys = Keys()
    order = KeyOrder(keys)
    for step, number in steps:
        key, name = b"%d" % (number * 7 % 31), number * 0x9E3779B97F4A7C15 % hashes
        there = keys.by_name.setdefault(name, [])
        if step == "add" and key not in there:
            there.append(key)
            order.add(name)
        elif step == "remove" and key in there:
            there.remove(key)
            order.remove()
        elif step == "drop":
            order.drop()
            assert order._names is None
        elif step == "look":
            wanted = sorted(each for each, _ in keys.pairs() if each >= key)
            assert list(order.since(key)) == wanted
            unlike = len({name for _, name in keys.pairs()}) == len(keys.pairs())
            assert not unlike or len(order._names or ()) >= len(keys.pairs())


def test_what_comes_and_goes_between_two_pages_is_as_it_is_then() -> None:
    """Each key once, those that came behind the last page too, and none that are gone."""
    cache = World().cache()
    for number in range(0, 2000, 2):
        cache.put(item(f"{number:05}"))
    seen, after = [], None
    for turn in range(100):
        page = cache.page(after, 20)
        seen += [each.key for each in page.entries]
        after = page.next
        if after is None:
            break
        cache.put(item(f"{int(after) + 1:05}"))
        cache.put(item(f"{max(0, int(after) - 1):05}"))
        cache.delete(Choice(key=f"{int(after) + 2:05}"))
        cache.put(item(f"{int(after) + 4:05}"))
        assert turn < 99
    assert seen == sorted(set(seen))
    assert f"{39:05}" in seen
    assert f"{40:05}" not in seen
    assert cache.delete(Choice(prefix="0000")).entries == 5
    assert cache.page("00002", 1).entries[0].key == "00010"
