"""What entries of one store are worth keeping, by what was asked for of late; and what is looked at when some have to go."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from worker.plugins import ExpectedUses

MISSED_MAX = 1024
_MULTIPLIER, _INCREMENT, _MASK = 6364136223846793005, 1442695040888963407, 2**64 - 1


class Prices:
    """Expected milliseconds of making entries again, by the hashes of their keys. Its owner locks."""

    def __init__(self) -> None:
        # All mutable state.
        self._uses = ExpectedUses()
        self._tended = False
        """Whether what is seen is learned from without anyone's look at prices."""
        self._missed: dict[int, None] = {}
        """What was asked for and not there, of late: putting it is no use of its own."""
        self.used: Callable[[int, int], None] = self._uses.used
        """Note a use of a hash at a time: it is on the way of every get."""
        self.again: AbstractSet[int] = self._uses.again
        """The hashes that were used more than once, as far as is known: others are worth what most are."""

    @property
    def held_bytes(self) -> int:
        """What is remembered of uses takes."""
        return self._uses.held_bytes

    def learn(self) -> None:
        """Learn from what was seen, as is done every second from now on: no plan has to wait for that."""
        self._tended = True
        self._uses.learn()

    def missed(self, name: int, now_ns: int) -> None:
        """Note that something was asked for that is not there."""
        self._uses.used(name, now_ns)
        if len(self._missed) >= MISSED_MAX:
            del self._missed[next(iter(self._missed))]
        self._missed[name] = None

    def put(self, name: int, now_ns: int) -> None:
        """Note that something is there from now on: a use, unless asking for it was."""
        if self._missed.pop(name, 0) is not None:
            self._uses.used(name, now_ns)

    def at(self, now_ns: int) -> Callable[[int], float]:
        """Return what tells how often a hash is expected to be used, at a time: it looks at the rates but once."""
        return self._uses.at(now_ns, as_learned=self._tended)


class Draws:
    """Numbers that nothing tells in advance. The same events give the same ones, however often they are looked at."""

    def __init__(self) -> None:
        # All mutable state: where looking begins, and where it will after the next event.
        self._first = self._next = 12345

    def note_event(self) -> None:
        """Have the next look begin with other numbers."""
        self._first = self._next

    def look(self) -> Callable[[], int]:
        """Begin to look. Each call returns the next number, of 48 bits."""
        self._next = self._first

        def draw() -> int:
            self._next = (self._next * _MULTIPLIER + _INCREMENT) & _MASK
            return self._next >> 16

        return draw
