"""A pickle followed opcode by opcode with stand-ins for what it would call: nothing is imported, nothing is run.

What it takes is bounded by the bytes it is handed: every opcode makes at most one small thing, a container grows by
what lies on the stack, and what a call is given is counted against the same budget. Keys of dicts are plain, so that
nothing hashes or compares what nests. Protocols 2 to 5, less what refers to buffers outside the pickle.
"""

import struct
from collections.abc import Callable
from typing import Any

from protocol.record import Record
from worker.loaders.base import FormatError

MAX_STEPS = 2_000_000
"""Opcodes, and items handed to calls. A tensor takes about 40: this is 50,000 of them."""
_MAX_INTEGER_BYTES = 255
_MARK = object()
_DAMAGED = FormatError.advice


class PickleError(FormatError):
    """It is not a pickle that can be followed; the message says what was found."""

    advice = "save its weights alone, by torch.save(model.state_dict(), ...) or as safetensors"


class Named(Record):
    """A class or function that the pickle names; it is not imported."""

    name: str
    """With its module: ``collections.OrderedDict``."""


class PassedOver(Record):
    """A value that is known to hold no tensor."""

    kind: str


Persistent = Callable[[Any], Any]
"""Makes what a persistent id stands for."""
Call = Callable[[str, tuple[Any, ...], Callable[[int], None]], Any]
"""Makes the stand-in for what a function called so would return; counts what it walks with the third."""


class PickleReader:
    """Follows one pickle after the other in ``text``; ``position`` is where the next begins."""

    def __init__(self, text: bytes, persistent: Persistent, call: Call) -> None:
        self.position = 0
        # Mutable, as the position is: the budget, and of one pickle the stack and the memo.
        self._text = text
        self._persistent = persistent
        self._call = call
        self._steps = MAX_STEPS
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Return what the next pickle stands for. PickleError for one that can't be followed."""
        self._stack, self._memo = [], {}
        try:
            while (opcode := self._take(1)) != b".":
                self.spend(1)
                _STEPS.get(opcode, _unknown)(self)
            return self.pop()
        except PickleError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, struct.error) as error:
            raise PickleError("its pickle is damaged", _DAMAGED) from error
        finally:
            self._stack, self._memo = [], {}

    def spend(self, steps: int) -> None:
        """Count work. PickleError when there was too much."""
        self._steps -= steps
        if self._steps < 0:
            message = f"it takes more than {MAX_STEPS} steps to follow"
            raise PickleError(message)

    # ---- the text ----

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._text):
            raise PickleError("its pickle is cut short", _DAMAGED)
        piece = self._text[self.position : end]
        self.position = end
        return piece

    def number(self, form: str) -> Any:
        """Read a number."""
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def sized(self, form: str) -> bytes:
        """Read a length, and so many bytes."""
        return self._take(self.number(form))

    def integer(self, form: str) -> int:
        """Read a length, and an integer of so many bytes."""
        text = self.sized(form)
        if len(text) > _MAX_INTEGER_BYTES:
            raise PickleError("it has an integer of more than 255 bytes")
        return int.from_bytes(text, "little", signed=True)

    def line(self) -> str:
        """Read to the end of a line."""
        end = self._text.find(b"\n", self.position, self.position + 4096)
        if end < 0:
            raise PickleError("its pickle is cut short", _DAMAGED)
        text = self._text[self.position : end]
        self.position = end + 1
        return text.decode()

    # ---- the stack ----

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take a value off the stack."""
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take everything off down to the last mark."""
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def tuple_of(self, count: int) -> None:
        """Make the topmost values one."""
        if len(self._stack) < count:
            raise PickleError("its pickle is damaged", _DAMAGED)
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def copy_top(self) -> None:
        """Push the topmost value once more."""
        self._stack.append(self._stack[-1])

    def remember(self, index: int | None = None) -> None:
        """Keep the topmost value under a number; without one, the next."""
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def recall(self, index: int) -> None:
        """Push what is kept."""
        self._stack.append(self._memo[index])

    # ---- containers and calls ----

    def append(self, items: list[Any]) -> None:
        """Add to the list, or set, that is topmost."""
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, PassedOver):
            raise PickleError("its pickle is damaged", _DAMAGED)

    def put(self, items: list[Any]) -> None:
        """Add keys and values to the dict that is topmost."""
        target = self._stack[-1]
        if isinstance(target, PassedOver):
            return
        if not isinstance(target, dict):
            raise PickleError("its pickle is damaged", _DAMAGED)
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def put_one(self) -> None:
        """Add one."""
        value, key = self.pop(), self.pop()
        self.put([key, value])

    def name(self, module: str, name: str) -> None:
        """Push a name."""
        self._stack.append(Named(f"{module}.{name}"))

    def named_on_stack(self) -> None:
        """Push a name that is given as two strings."""
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("its pickle is damaged", _DAMAGED)
        self.name(module, name)

    def call(self, *, keywords: bool = False) -> None:
        """Push the stand-in for what a call would make."""
        given = self.pop() if keywords else None
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Named) or not isinstance(arguments, tuple) or given:
            raise PickleError("it calls what it does not name")
        self._stack.append(self._call(called.name, arguments, self.spend))

    def refer(self) -> None:
        """Push what a persistent id stands for."""
        self._stack.append(self._persistent(self.pop()))


def _unknown(_: PickleReader) -> None:
    raise PickleError("its pickle has an opcode that torch.save does not write")


class OddKey:
    """Stands for a key that is no plain value: equal to itself only, so that nothing nested is hashed."""


def _key(key: Any) -> Any:
    if isinstance(
        key, Named
    ):  # a class, as older checkpoints of Lightning have its callbacks' states by them
        return key.name
    plain = key is None or isinstance(key, str | int | float | bytes)
    return key if plain else OddKey()


def _string(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


_Step = Callable[[PickleReader], object]
_STEPS: dict[bytes, _Step] = {
    b"\x80": lambda it: it.number("<B"),
    b"\x95": lambda it: it.number("<Q"),  # a frame: only its contents matter
    b"(": lambda it: it.push(_MARK),
    b"0": PickleReader.pop,
    b"1": PickleReader.pop_to_mark,
    b"2": PickleReader.copy_top,
    b"N": lambda it: it.push(None),
    b"\x88": lambda it: it.push(True),  # noqa: FBT003 - the value that the opcode is for
    b"\x89": lambda it: it.push(False),  # noqa: FBT003 - as above
    b"J": lambda it: it.push(it.number("<i")),
    b"K": lambda it: it.push(it.number("<B")),
    b"M": lambda it: it.push(it.number("<H")),
    b"\x8a": lambda it: it.push(it.integer("<B")),
    b"\x8b": lambda it: it.push(it.integer("<I")),
    b"G": lambda it: it.push(it.number(">d")),
    b"X": lambda it: it.push(_string(it.sized("<I"))),
    b"\x8c": lambda it: it.push(_string(it.sized("<B"))),
    b"\x8d": lambda it: it.push(_string(it.sized("<Q"))),
    b"T": lambda it: it.push(it.sized("<I").decode("latin-1")),  # what Python 2 called a string
    b"U": lambda it: it.push(it.sized("<B").decode("latin-1")),
    b"B": lambda it: it.push(it.sized("<I")),
    b"C": lambda it: it.push(it.sized("<B")),
    b"\x8e": lambda it: it.push(it.sized("<Q")),
    b"\x96": lambda it: it.push(it.sized("<Q")),
    b")": lambda it: it.push(()),
    b"\x85": lambda it: it.tuple_of(1),
    b"\x86": lambda it: it.tuple_of(2),
    b"\x87": lambda it: it.tuple_of(3),
    b"t": lambda it: it.push(tuple(it.pop_to_mark())),
    b"]": lambda it: it.push([]),
    b"l": lambda it: it.push(it.pop_to_mark()),
    b"a": lambda it: it.append([it.pop()]),
    b"e": lambda it: it.append(it.pop_to_mark()),
    b"}": lambda it: it.push({}),
    b"s": PickleReader.put_one,
    b"u": lambda it: it.put(it.pop_to_mark()),
    b"\x8f": lambda it: it.push([]),  # a set: its order is as good as any
    b"\x90": lambda it: it.append(it.pop_to_mark()),
    b"\x91": lambda it: it.push(it.pop_to_mark()),
    b"q": lambda it: it.remember(it.number("<B")),
    b"r": lambda it: it.remember(it.number("<I")),
    b"\x94": PickleReader.remember,
    b"h": lambda it: it.recall(it.number("<B")),
    b"j": lambda it: it.recall(it.number("<I")),
    b"c": lambda it: it.name(it.line(), it.line()),
    b"\x93": PickleReader.named_on_stack,
    b"Q": PickleReader.refer,
    b"R": PickleReader.call,
    b"\x81": PickleReader.call,
    b"\x92": lambda it: it.call(keywords=True),
    b"b": PickleReader.pop,  # an object's attributes: of a dict, such as _metadata, they hold no tensors
}
"""What each opcode does; any other ends the reading."""
