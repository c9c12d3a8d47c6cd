"""Where errors become wire: whatever the error and its details, there is one frame, and JSON can hold it."""

import errno
import math
from enum import Enum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.record import Record
from protocol.vocabulary import ErrorCode, Executed
from worker.core import errors
from worker.core.errors import UnsupportedError, WorkerError
from worker.stream import frames
from worker.stream.failures import last_words, wire_error
from worker.stream.frames import check_depth, error_frame

MAX_FRAME = 1 << 20

CLASSES: tuple[type[WorkerError], ...] = tuple(
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, WorkerError) and hasattr(each, "code")
)


class Colour(Enum):
    """A value of a plugin's."""

    RED = (1, {2})


class Row(Record):
    """A record of a plugin's."""

    size: object


class Unspeakable:
    """Cannot even be described."""

    def __repr__(self) -> str:
        raise RuntimeError


def nested(depth: int) -> Any:
    """Return a list in a list in a list."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    """Return a list that holds itself many times."""
    value: list[Any] = []
    value.extend([value] * 50)
    return value


ODD = [
    2**63, 2**64, -(2**63) - 1, 10**5000, math.nan, math.inf, "\ud800", "a\udfffb", b"bytes", object(), {1, 2}, {1: {2}},
    {"\ud800": "\udc00"}, {None: None}, Colour.RED, Row(2**70), Unspeakable(), nested(100), nested(100_000), endless(),
    ValueError("\ud800"), range(3), memoryview(b"x"), 1j, lambda: None, "x" * (2 << 20), list(range(100_000)),
]  # fmt: skip


def told(frame: bytes) -> dict[str, Any]:
    """Read a frame as the strictest client does."""
    assert frame.endswith(b"\n")
    assert frame.count(b"\n") == 1
    assert len(frame) <= MAX_FRAME
    check_depth(frame)
    reply = orjson.loads(frame)
    assert reply["request_id"] == "1"
    assert reply["success"] is False
    error: dict[str, Any] = reply["error"]
    assert isinstance(error["message"], str)
    assert isinstance(error["details"], dict)
    return error


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_any_error_with_any_details_is_a_frame(kind: type[WorkerError], value: object) -> None:
    """Every class of errors keeps its code, whatever its message and details are."""
    error = kind.__new__(kind)
    WorkerError.__init__(error, value, detail=value, deep={"a": [value]})
    assert told(error_frame("1", error, MAX_FRAME))["code"] == kind.code


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.just("\udead"), st.complex_numbers()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.one_of(st.text(), st.integers()), inner)),
    )
)  # fmt: skip
def test_what_json_knows_stays_as_it_is(value: object) -> None:
    """Details that JSON can hold arrive unchanged, and those that it can't as something that it can."""
    error = UnsupportedError("no", detail=value)
    found = told(error_frame("1", error, MAX_FRAME))["details"]["detail"]
    try:
        assert found == orjson.loads(orjson.dumps(value))
    except TypeError:
        assert found is not ...


class ForgetfulError(WorkerError):
    """An error of a plugin's that leaves its base class out."""

    code = ErrorCode.UNSUPPORTED

    def __init__(self) -> None:  # a plugin's mistake
        pass


@pytest.mark.parametrize(
    ("error", "code", "resource"),
    [
        (MemoryError(), "out_of_memory", "memory"),
        (RuntimeError("can't start new thread"), "out_of_memory", "threads"),
        (OSError(errno.EMFILE, "Too many open files"), "out_of_memory", "descriptors"),
        (OSError(errno.ENFILE, "Too many open files in system"), "out_of_memory", "descriptors"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "memory"),
        (OSError(errno.EIO, "I/O error"), "internal_error", None),
        (SystemExit(3), "internal_error", None),
        (KeyboardInterrupt(), "internal_error", None),
        (RecursionError(), "internal_error", None),
        (ForgetfulError(), "internal_error", None),
        (type("Mute", (Exception,), {"__str__": lambda _: 1 / 0})(), "internal_error", None),
        (BaseExceptionGroup("\ud800", [SystemExit()]), "internal_error", None),
    ],
    ids=repr,
)
def test_what_no_action_expects(error: BaseException, code: str, resource: str | None) -> None:
    """A passing shortage is out_of_memory, can be tried again, and names what is short; all else is a bug."""
    wired = wire_error(error, "a", None)
    body = told(error_frame("1", wired, MAX_FRAME))
    assert body["code"] == code
    assert body["details"].get("resource") == resource
    assert body["retryable"] is (resource is not None)
    assert wire_error(error, "a", None, changes=True).executed is Executed.UNKNOWN


@pytest.mark.parametrize("request_id", ["1", 'a"b\\', "\u2028é", "x" * 128])
def test_last_words(request_id: str) -> None:
    """The frame that is made beforehand is a reply like any other."""
    reply = orjson.loads(last_words(request_id))
    assert reply["request_id"] == request_id
    assert set(reply["error"]) == {"code", "message", "executed", "retryable", "details"}


def test_a_long_line_without_memory_is_an_error_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orjson crashes where memory fails inside it: what a long line may take is asked for before."""
    monkeypatch.setattr(frames, "_BYTES_PER_CHARACTER", 2**40)
    with pytest.raises(MemoryError):
        frames.read_request(b'{"request_id":"1","action":"a","data":{"x":"' + b"y" * 2**18 + b'"}}')
