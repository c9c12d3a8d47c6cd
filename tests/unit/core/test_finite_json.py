"""JSON has no NaN and nothing infinite: what has one is refused with its place, and all else is as orjson writes it."""

from dataclasses import dataclass
from math import inf, nan
from typing import Any

import orjson
import pytest

from worker.core.finite_json import json_of


@dataclass
class Reading:
    """As a plugin may return one."""

    value: float | None


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (nan, "nan:"),
        ({"a": [0.5, inf]}, r"inf at a\[1\]:"),
        ([None, (1, {"b": -inf})], r"-inf at \[1\]\[1\]\.b:"),
        ({"r": Reading(nan)}, "nan at r.value:"),
    ],
)
def test_such_a_number_is_refused_with_its_place(value: Any, place: str) -> None:
    """A ValueError, as Python's own ``json`` has it."""
    with pytest.raises(ValueError, match=place):
        json_of(value)


@pytest.mark.parametrize("value", [None, "null", {"null": [None, 1e308, True]}, [Reading(None)]])
def test_all_else_is_as_it_is(value: Any) -> None:
    """Also where there is a null in it."""
    assert json_of(value) == orjson.dumps(value)
    with pytest.raises(TypeError):
        json_of(object())


def test_numbers_of_other_libraries() -> None:
    """A product of sizes is numpy's where one factor is: it is the number that it is, and what is none of JSON's is refused as Python's own."""
    numpy = pytest.importorskip("numpy")
    sizes = {
        "bytes": numpy.prod([3, 4], dtype=numpy.int64),
        "share": numpy.float32(0.5),
        "more": [numpy.float64(1.5)],
    }
    assert json_of(sizes) == b'{"bytes":12,"share":0.5,"more":[1.5]}'
    with pytest.raises(ValueError, match="nan at share"):
        json_of({"share": numpy.float32("nan")})
    for other in (numpy.arange(2), numpy.array(["a"])):
        with pytest.raises(TypeError):
            json_of(other)
