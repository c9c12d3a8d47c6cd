"""Lines of stdin: cut out of chunks, read as requests, or refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.errors import InvalidJsonError, InvalidRequestError, WorkerError
from worker.stream.frames import LineSplitter, Oversize, find_request_id, read_request

PATIENCE_SECONDS = 5.0


MAX_FRAME = 600
LINES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.integers(MAX_FRAME - 3, MAX_FRAME + 3).map(lambda n: b"x" * n),
        st.integers(MAX_FRAME - 3, MAX_FRAME + 3).map(lambda n: b"y" * n + b"\r"),
        st.integers(0, 3 * MAX_FRAME).map(lambda n: b"z" * n),
    ),
    max_size=6,
).map(b"\n".join)


def split(chunks: list[bytes]) -> list[bytes | Oversize]:
    """Cut chunks into lines."""
    splitter = LineSplitter(MAX_FRAME)
    return [line for chunk in chunks if chunk for line in splitter.feed(chunk)] + list(splitter.close())


@given(data=LINES, cuts=st.lists(st.integers(0, 5 * MAX_FRAME), max_size=20))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    """How a stream is cut into chunks makes no difference to its lines, the oversize ones' heads included."""
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    whole = split([data])
    assert split([data[start:end] for start, end in pairwise(edges)]) == whole
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert len(whole) == len(expected)
    for found, line in zip(whole, expected, strict=True):
        if isinstance(found, Oversize):
            assert len(line.removesuffix(b"\r")) > MAX_FRAME
            assert line.startswith(found.head)
        else:
            assert found == line
            assert len(line.removesuffix(b"\r")) <= MAX_FRAME


@given(data=st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_line_is_a_request_or_refused(data: bytes) -> None:
    """A line is a request, blank, or refused with a code; its id is looked for without failing."""
    try:
        read_request(data)
    except WorkerError:
        found = find_request_id(data)
        assert found is None or 0 < len(found) <= 128


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[]", InvalidJsonError),
        (b'"x"', InvalidJsonError),
        (b"1", InvalidJsonError),
        (b"true", InvalidJsonError),
        (b"null", InvalidJsonError),
        (b"{", InvalidJsonError),
        (b"\xff", InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": {"x": NaN}}', InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": {"x": Infinity}}', InvalidJsonError),
        (b'{"request_id": "\\ud800", "action": "a"}', InvalidJsonError),
        (b'{"request_id": "1", "action": "a", "data": ' + b'{"x":' * 70 + b"1" + b"}" * 71, InvalidJsonError),
        (b"[" * 100_000, InvalidJsonError),
        (b'{"request_id": "1"}', InvalidRequestError),
        (b'{"action": "a"}', InvalidRequestError),
        (b'{"request_id": "", "action": "a"}', InvalidRequestError),
        (b'{"request_id": 1, "action": "a"}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "data": []}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "data": null}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": -1}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": 1.0}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"deadline_ms": true}}', InvalidRequestError),
        (b'{"request_id": "1", "action": "a", "meta": {"progress": 1}}', InvalidRequestError),
        (b'{"request_id": "' + b"x" * 129 + b'", "action": "a"}', InvalidRequestError),
        (b'{"request_id": "1", "action": "' + b"x" * 257 + b'"}', InvalidRequestError),
    ],
)
def test_lines_that_are_refused(line: bytes, error: type[Exception]) -> None:
    """What is no JSON object is invalid JSON; an object that is no request is an invalid request."""
    with pytest.raises(error):
        read_request(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"request_id": "1", "action": "a"}',
        b'{"request_id": "1", "action": "a", "data": {}, "meta": {}, "future": [1]}\r',
        b'\xef\xbb\xbf{"request_id": "1", "action": "a", "meta": {"future": {}}}',
        b' \t{"action": "a", "request_id": "\\u0031"} ',
        b'{"request_id": "1", "action": "a", "meta": null}',
        b'{"request_id": "1", "action": "a", "data": ' + b'{"x":' * 62 + b"{}" + b"}" * 63,
    ],
)
def test_lines_that_are_read(line: bytes) -> None:
    """CRLF, a BOM, space, unknown keys and 64 levels are all right."""
    request = read_request(line)
    assert request is not None
    assert (request.request_id, request.action) == ("1", "a")


@pytest.mark.parametrize("line", [b"", b"\r", b"  \t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r"])
def test_blank_lines(line: bytes) -> None:
    """A blank line is none."""
    assert read_request(line) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"request_id": "abc", "action": ', "abc"),
        (b'{"request_id": "a\\"b", ', 'a"b'),
        (b'\xef\xbb\xbf {"request_id":"abc"', "abc"),
        (b'{"action": "x", "request_id": "abc"}', "abc"),
        (b'{"action": "x", "request_id": 5}', None),
        (b'{"request_id": "\\ud800"}', None),
        (b'{"request_id": ""}', None),
        (b'{"request_id": "' + b"x" * 129 + b'"}', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_id_of_an_unreadable_line(line: bytes, found: str | None) -> None:
    """The id is told wherever it can be read, and only then."""
    assert find_request_id(line) == found


def test_a_line_that_is_given_up_for_memory() -> None:
    """Where there is no memory for a line, the rest of it is discarded, its head tells whose it was, and the next is read."""
    splitter = LineSplitter(MAX_FRAME)
    assert splitter.feed(b'{"request_id": "x", ') == []
    splitter.give_up()
    assert splitter.feed(b"more") == []
    found = splitter.feed(b" and more\nnext\n")
    assert found == [Oversize(b'{"request_id": "x", ', no_memory=True), b"next"]
