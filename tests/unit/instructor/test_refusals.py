"""A request that is none is refused with a bounded amount of work, however long its line was."""

import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from protocol.params import CANDIDATES_MAX, EVENTS_MAX, EXCLUDED_MODELS_MAX, KEYS_MAX, SECTIONS_MAX
from protocol.vocabulary import DEFAULT_MAX_FRAME_BYTES, AnalyticsSection, EventName
from tests.unit.instructor.instructors import instructor_over
from tests.unit.machine import Machine
from worker.core.errors import InvalidRequestError, UnknownActionError
from worker.instructor import instructor_memory
from worker.instructor.instructor_memory import Instructor
from worker.instructor.refusals import ERRORS_TOLD, unknown_action
from worker.stream.envelope import NAME_MAX
from worker.stream.frames import read_request

MIB = 2**20
_MANY = 1_000_000
_KEYS = {f"unknown {n}": n for n in range(_MANY // 2)}
_FULL = {f"unknown {n}": n for n in range(KEYS_MAX)}

LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "wrong events": ("worker.subscribe", {"events": ["memory.nothing"] * (_MANY - 100_000)}),
    "right events": ("worker.subscribe", {"events": [EventName.DEVICE_LOST] * _MANY}),
    "wrong sections": ("memory.get_analytics", {"include": [0] * 8 * _MANY}),
    "wrong models": ("memory.model_optimize", {"exclude_models": [0] * 8 * _MANY}),
    "as many wrong models as are taken": ("memory.model_optimize", {"exclude_models": [0] * EXCLUDED_MODELS_MAX}),
    "wrong candidates": ("memory.plan", {"candidates": [0] * 8 * _MANY}),
    "as many candidates and keys as are taken": ("memory.plan", {"candidates": [_FULL] * CANDIDATES_MAX}),
    "keys of a candidate": ("memory.plan", {"candidates": [_KEYS]}),
    "keys of the thresholds": ("memory.set_limits", {"device_id": "cpu", "thresholds": _KEYS}),
    "keys": ("worker.ping", _KEYS),
    "as many keys as are taken": ("worker.ping", _FULL),
    "a key": ("worker.ping", {"x" * (15 * MIB): 1}),
    "long keys": ("worker.ping", {f"{n}" + "x" * (15 * MIB // KEYS_MAX): 1 for n in range(KEYS_MAX)}),
    "a value": ("memory.get_status", {"device_id": "x" * (15 * MIB)}),
}  # fmt: skip


@pytest.fixture
def instructor(tmp_path: Path) -> Instructor:
    """Return one over a machine; nothing that is sent here gets as far as its session."""
    return instructor_over(Machine(tmp_path))


@pytest.mark.parametrize("what", LONG)
def test_a_long_line_takes_bounded_work(
    what: str, instructor: Instructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few faults are found, fewer named, in few characters and little memory: by counts, not by seconds."""
    action, data = LONG[what]
    line = orjson.dumps({"request_id": "1", "action": action, "data": data})
    assert len(line) <= DEFAULT_MAX_FRAME_BYTES
    request = read_request(line)
    assert request is not None
    faults: list[int] = []
    known = instructor_memory.invalid

    def counting(error: ValidationError, params: Any) -> InvalidRequestError:
        faults.append(error.error_count())
        return known(error, params)

    monkeypatch.setattr(instructor_memory, "invalid", counting)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError) as caught:
            instructor.prepare(request.action, request.data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    told = caught.value.details["errors"]
    assert sum(faults) <= CANDIDATES_MAX * (KEYS_MAX + 2) + 1
    assert 1 <= len(told) <= ERRORS_TOLD + 1
    assert len(caught.value.message) <= (ERRORS_TOLD + 1) * (3 * NAME_MAX + 100)
    assert peak_bytes <= 64 * MIB, peak_bytes


def test_the_first_faults_are_named_and_the_others_counted(instructor: Instructor) -> None:
    """Whoever reads the answer sees that there is more."""
    with pytest.raises(InvalidRequestError) as caught:
        instructor.prepare("memory.model_optimize", {"exclude_models": [0] * (ERRORS_TOLD + 7)})
    told = caught.value.details["errors"]
    assert [each["path"] for each in told[:2]] == ["data.exclude_models.0", "data.exclude_models.1"]
    assert told[-1] == {"path": "data", "message": "7 more faults are not named"}


@pytest.mark.parametrize(
    ("action", "data", "message"),
    [
        (
            "worker.subscribe",
            {"events": [0] * 101},
            "data.events: a list of 101 items; at most 100 are taken",
        ),
        (
            "worker.ping",
            dict.fromkeys(map(str, range(33))),
            "data: an object of 33 keys; none has more than 32",
        ),
    ],
)
def test_what_is_too_long_is_said(
    action: str, data: dict[str, Any], message: str, instructor: Instructor
) -> None:
    """The limit and the size are in the answer."""
    with pytest.raises(InvalidRequestError) as caught:
        instructor.prepare(action, data)
    assert caught.value.message == message


def test_bounds_leave_room_for_all_that_is_sensible(instructor: Instructor) -> None:
    """Every event, section and model there is can be named many times over."""
    assert len(EventName) * 5 <= EVENTS_MAX
    assert len(AnalyticsSection) * 5 <= SECTIONS_MAX
    names = [f"model {n}" for n in range(EXCLUDED_MODELS_MAX)]
    assert instructor.prepare("memory.model_optimize", {"exclude_models": names, "dry_run": True})
    ways = [{"name": f"way {n}", "required_bytes": 1} for n in range(CANDIDATES_MAX)]
    assert instructor.prepare("memory.plan", {"candidates": ways})


def test_similar_names_are_only_looked_for_where_that_is_cheap() -> None:
    """A mistyped action is told its neighbour; a long one that is none is compared with nothing."""
    assert unknown_action("memory.get_staus", ()).details["nearest"] == "memory.get_status"
    error = unknown_action("memory.get_status" * 10, ())
    assert isinstance(error, UnknownActionError)
    assert error.details["nearest"] is None
