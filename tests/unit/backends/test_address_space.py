"""The address space of a simulated device: blocks never overlap, and free neighbours are one."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker.backends.address_space import AddressSpace


class Space(RuleBasedStateMachine):
    """Ranges of a small address space, against a model that writes every byte."""

    def __init__(self) -> None:
        super().__init__()
        self.space = AddressSpace(100)
        self.sizes: dict[str, int] = {}
        self.next = 0

    @rule(size=st.integers(1, 110))
    def take(self, size: int) -> None:
        """A range is given exactly if one free range is large enough, and it is the tightest."""
        largest, name = self.space.largest_free, str(self.next)
        self.next += 1
        assert self.space.take(name, size) == (size <= largest)
        if size <= largest:
            self.sizes[name] = size

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """What was taken can be given back, once."""
        if self.sizes:
            name = data.draw(st.sampled_from(sorted(self.sizes)))
            del self.sizes[name]
            self.space.give_back(name)
            with pytest.raises(KeyError):
                self.space.give_back(name)

    @rule()
    def compact(self) -> None:
        """Compacting joins all that is free; doing it again moves nothing."""
        moved = self.space.compact()
        assert 0 <= moved <= len(self.sizes)
        assert self.space.largest_free == 100 - sum(self.sizes.values())
        assert self.space.compact() == 0

    @invariant()
    def adds_up(self) -> None:
        """Used and free make the whole."""
        assert self.space.used_bytes == sum(self.sizes.values())
        assert 0 <= self.space.largest_free <= 100 - self.space.used_bytes


TestSpace = Space.TestCase


def test_best_fit() -> None:
    """The tightest free range is taken, the lowest of equals: what is large stays large."""
    space = AddressSpace(100)
    for name, size in (("a", 30), ("x", 10), ("b", 10), ("y", 10), ("c", 40)):
        assert space.take(name, size)
    for name in ("a", "b", "c"):
        space.give_back(name)
    assert space.take("d", 10)
    assert space.largest_free == 40
    assert not space.take("e", 41)
