"""What stands around ``data`` in a request: what nothing reads of it is told, and what is wrong is told with its limits."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from protocol.store_params import StorePutParams
from worker.core.errors import InvalidRequestError
from worker.stream.envelope import fault_text
from worker.stream.frames import read_request


def ignored(**more: Any) -> list[tuple[str, str]] | None:
    request = read_request(orjson.dumps({"request_id": "1", "action": "worker.ping", **more}))
    assert request is not None
    if request.ignored is None:
        return None
    return [tuple(each.values()) for each in orjson.loads(b'{"a":1' + request.ignored)["ignored"]]


@pytest.mark.parametrize(("more", "told"), [
    ({"deadline_ms": 5}, [("deadline_ms", "unknown key; did you mean meta.deadline_ms?")]),
    ({"meta": {"deadline": 5}}, [("meta.deadline", "unknown key; did you mean deadline_ms?")]),
    ({"meta": {"deadline_ms": 5, "x": 1}}, [("meta.x", "unknown key; what an action takes goes into data")]),
    ({"meta": {"data": {}}}, [("meta.data", "unknown key; did you mean data?")]),
    ({"data": {}, "meta": None, "size_bytes": 5}, [("size_bytes", "unknown key; what an action takes goes into data")]),
])  # fmt: skip
def test_a_key_that_nothing_reads_is_told(more: dict[str, Any], told: list[tuple[str, str]]) -> None:
    """The request is carried out, and its reply names the key, and where it may belong."""
    assert ignored(**more) == told


@pytest.mark.parametrize("more", [
    {}, {"data": {}}, {"meta": None}, {"data": {}, "meta": None}, {"meta": {}}, {"meta": {"deadline_ms": 5}},
    {"data": {"x": 1}, "meta": {"deadline_ms": 5, "progress": True, "traceparent": "00"}},
])  # fmt: skip
def test_known_keys_are_passed_without_a_word(more: dict[str, Any]) -> None:
    """Whatever may be left out and whatever may be there."""
    assert ignored(**more) is None


def test_many_and_long_keys_take_little() -> None:
    """The first eight are named, cut short; the others are counted."""
    told = ignored(
        **{f"{number}" * 500: 1 for number in range(10)}, **{f"x{number}": 1 for number in range(1000)}
    )
    assert told is not None
    assert len(told) == 9 and max(len(path) for path, _ in told) == 67
    assert told[-1] == ("", "1002 more keys are not named")


def test_an_integer_above_64_bits_is_told_with_the_limit() -> None:
    """JSON's readers make a float of it: what is wrong with it is its size, not its type."""
    line = b'{"request_id": "1", "action": "worker.ping", "meta": {"deadline_ms": 36893488147419103232}, "deadline": 5}'
    with pytest.raises(InvalidRequestError) as caught:
        read_request(line)
    told = [tuple(each.values()) for each in caught.value.details["errors"]]
    limits = "between -9223372036854775808 and 9223372036854775807"
    assert told == [
        ("meta.deadline_ms", f"Input should be an integer of 64 bits, {limits}"),
        ("deadline", "unknown key; did you mean meta.deadline_ms?"),
    ]


def test_a_list_is_called_a_list() -> None:
    """What is kept as a tuple here is a list in JSON."""
    with pytest.raises(ValidationError) as caught:
        StorePutParams.model_validate({"store": "s", "key": "k", "value": 1, "tags": "en"})
    assert [fault_text(each) for each in caught.value.errors()] == ["Input should be a valid list"]
