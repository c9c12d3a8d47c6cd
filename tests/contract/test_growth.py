"""What the contract may become within protocol 1, held against what was first released."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from protocol import growth
from protocol.generators import languages
from protocol.generators.model import shape

Shape = growth.Shape


def test_every_promise_is_kept() -> None:
    """Actions, events, fields and words that were released are there as they were; requests ask for no more."""
    assert growth.broken_promises(shape()) == []


def test_additions_are_allowed() -> None:
    """Actions, events, types, optional fields, answers' fields and words may come; a request may be asked for less."""
    now = copy.deepcopy(growth.baseline())
    now["actions"]["memory.hibernate"] = ["HibernateParams", "HibernateResult"]
    now["events"]["device.moved_out"] = "MovedOutData"
    now["requests"]["HibernateParams"] = {"until": "required string"}
    now["requests"]["ClearParams"]["gently"] = "boolean"
    now["answers"]["ClearResult"]["mood"] = "integer"
    now["enums"]["DeviceKind"].append("npu")
    now["requests"]["AllocateParams"]["size_bytes"] = "integer or null"
    assert growth.broken_promises(now) == []


def _assign(kind: str, name: str, field: str, value: Any) -> Callable[[Shape], None]:
    return lambda now: now[kind][name].__setitem__(field, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda now: now["actions"].pop("worker.ping"), "action worker.ping is gone"),
        (lambda now: now["events"].update({"device.lost": "GoneData"}), "event device.lost is GoneData"),
        (lambda now: now["answers"].pop("PingResult"), "PingResult.uptime_ms is gone"),
        (lambda now: now["answers"]["PingResult"].pop("uptime_ms"), "PingResult.uptime_ms is gone"),
        (_assign("answers", "PingResult", "uptime_ms", "integer or null"), "it was integer"),
        (
            _assign("requests", "ClearParams", "mood", "required string"),
            "ClearParams.mood is new and required",
        ),
        (
            _assign("requests", "ClearParams", "owner", "required string or null"),
            "ClearParams.owner is required",
        ),
        (lambda now: now["enums"]["DeviceKind"].remove("cuda"), "DeviceKind lost the word cuda"),
    ],
)
def test_what_would_stop_others_is_named(change: Callable[[Shape], Any], said: str) -> None:
    """A host or a worker in use relies on it; the sentence says what it was."""
    now = copy.deepcopy(growth.baseline())
    change(now)
    [found] = growth.broken_promises(now)
    assert said in found


def test_a_release_adds_types_and_changes_none() -> None:
    """What came to a type after its release stays an addition: an older worker still does not send it."""
    now = copy.deepcopy(growth.baseline())
    now["answers"]["ClearResult"]["mood"] = "integer"
    now["requests"]["HibernateParams"] = {"until": "required string"}
    text = growth.with_additions(now)
    assert "HibernateParams" in text
    assert "mood" not in text


def test_languages_are_found() -> None:
    """A language is a package below ``protocol.generators``; each owns the files that it writes and no other's."""
    found = languages()
    assert "protocol.generators.csharp" in [one.__name__ for one in found]
    paths = [path for one in found for path in one.generate()]
    assert len(paths) == len(set(paths))
