"""What a file of ``torch.save`` says of its tensors, read without torch and without running any of it.

The file is a zip with a pickle that describes the tensors and a record for each storage. The pickle is
followed opcode by opcode with stand-ins for what it would call; whatever is not known to be part of a plain
state dict ends the reading, and torch says later what it is.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from protocol.record import Record
from worker.loaders.dtypes import FROM_TORCH

_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_DEPTH = 64
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip
"""The storage classes that torch names in a file, and what their elements are."""
_REBUILD, _REBUILD_WITH_DTYPE, _PARAMETER = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
)
_DICT = "collections OrderedDict"
_MARK = object()


class DescribedTensor(Record):
    """A tensor as the file describes it."""

    dtype: str
    shape: tuple[int, ...]


class _Named(Record):
    """A class or function that the file names; it is not imported."""

    name: str


class _Storage(Record):
    """A storage that the file refers to; ``dtype`` None where it is only bytes."""

    dtype: str | None


class NotDescribedError(Exception):
    """The file is not what this can read."""


def described_tensors(file: BinaryIO) -> tuple[DescribedTensor, ...]:
    """Return all tensors, in the order in which the loader finds them. NotDescribedError if that can't be told."""
    try:
        with ZipFile(file) as archive:
            infos = [each for each in archive.infolist() if each.filename.endswith("/data.pkl")]
            if len(infos) != 1 or infos[0].file_size > _MAX_PICKLE_BYTES:
                raise NotDescribedError
            text = archive.read(infos[0])
        return tuple(_tensors(_follow(text), 0))
    except (
        BadZipFile,
        OSError,
        ValueError,
        AttributeError,
        TypeError,
        LookupError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise NotDescribedError from error


def _tensors(value: Any, depth: int) -> Iterator[DescribedTensor]:
    if isinstance(value, DescribedTensor):
        yield value
    elif isinstance(value, dict) and depth <= _MAX_DEPTH:
        for each in value.values():
            yield from _tensors(each, depth + 1)
    else:
        raise NotDescribedError


def _follow(text: bytes) -> Any:
    """Work the opcodes off with stand-ins. Returns what would have been unpickled."""
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(text):
        if opcode.name == "STOP":
            return stack.pop()
        _STEPS[opcode.name](stack, argument)
    raise NotDescribedError


class _Stack:
    """The stack and the memo of the pickle format."""

    def __init__(self) -> None:
        # All mutable state.
        self._items: list[Any] = []
        self._memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self._items.append(value)

    def pop(self) -> Any:
        return self._items.pop()

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._items.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def remember(self, index: int) -> None:
        self._memo[index] = self._items[-1]

    def recall(self, index: int) -> None:
        self._items.append(self._memo[index])

    def tuple_of(self, count: int) -> None:
        self._items[-count:] = [tuple(self._items[-count:])]

    def call(self) -> None:
        arguments = self.pop()
        self.push(_called(self.pop(), arguments))

    def set_items(self, items: list[Any]) -> None:
        self._items[-1].update(zip(items[::2], items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])


_STEPS: dict[str, Callable[[_Stack, Any], None]] = {
    "PROTO": lambda _stack, _version: None,
    "MARK": lambda stack, _: stack.push(_MARK),
    "EMPTY_DICT": lambda stack, _: stack.push({}),
    "EMPTY_TUPLE": lambda stack, _: stack.push(()),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), lambda stack, _: stack.push(None)),  # never looked at
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"),
        _Stack.push,
    ),
    "TUPLE": lambda stack, _: stack.push(tuple(stack.pop_to_mark())),
    "TUPLE1": lambda stack, _: stack.tuple_of(1),
    "TUPLE2": lambda stack, _: stack.tuple_of(2),
    "TUPLE3": lambda stack, _: stack.tuple_of(3),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Stack.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Stack.recall),
    "GLOBAL": lambda stack, name: stack.push(_Named(name)),
    "BINPERSID": lambda stack, _: stack.push(_storage(stack.pop())),
    "REDUCE": lambda stack, _: stack.call(),
    "SETITEM": lambda stack, _: stack.set_item(),
    "SETITEMS": lambda stack, _: stack.set_items(stack.pop_to_mark()),
    "BUILD": lambda stack, _attributes: stack.pop(),  # of a dict, such as _metadata: no tensors are there
}
"""What each opcode that a state dict needs does, in protocol 2 that torch writes; any other is a KeyError."""


def _storage(reference: Any) -> _Storage:
    kind, named, *_ = reference
    if kind != "storage" or not isinstance(named, _Named):
        raise NotDescribedError
    module, _, name = named.name.partition(" ")
    if module == "torch.storage" and name == "UntypedStorage":
        return _Storage(None)
    if module != "torch":
        raise NotDescribedError
    return _Storage(_STORAGES[name])


def _called(called: Any, arguments: Any) -> Any:
    """Return a stand-in for what a call would make."""
    name = called.name if isinstance(called, _Named) else None
    if name == _DICT and arguments == ():
        return {}
    if name == _PARAMETER and isinstance(arguments[0], DescribedTensor):
        return arguments[0]
    if name not in {_REBUILD, _REBUILD_WITH_DTYPE} or not isinstance(arguments[0], _Storage):
        raise NotDescribedError
    dtype, shape = arguments[0].dtype, arguments[2]
    if name == _REBUILD_WITH_DTYPE:
        dtype = FROM_TORCH[arguments[6].name.replace(" ", ".")]
    if dtype is None or not all(type(size) is int and size >= 0 for size in shape):
        raise NotDescribedError
    if math.prod(shape) > 2**63:
        raise NotDescribedError
    return DescribedTensor(dtype, tuple(shape))
