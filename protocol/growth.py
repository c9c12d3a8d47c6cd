"""How the contract may grow within protocol 1, and what tells an addition from what was always there.

``baseline.json`` holds every type as it was when it was first released. A field that is not in it came later: an
older worker does not send it, so a reader takes it as null. After a release, ``python -m protocol.generate
--baseline`` adds the types that are new; what is in the file never changes within a version of the protocol.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("baseline.json")

REQUIRED, OR_NULL = "required ", " or null"

Shape = dict[str, dict[str, Any]]
"""``actions``, ``events``, ``enums`` (their words), ``requests`` and ``answers`` (a field's type by its name)."""


@cache
def baseline() -> Shape:
    """Return the contract as it was first released."""
    shape: Shape = json.loads(BASELINE.read_text(encoding="utf-8"))
    return shape


def is_added(record: str, field: str) -> bool:
    """Tell whether a field came to a record after that was first released."""
    first = (baseline()["requests"] | baseline()["answers"]).get(record)
    return first is not None and field not in first


def broken_promises(now: Shape) -> list[str]:
    """Return what no growth may do, in sentences: each would stop a host or a worker that is in use."""
    first = baseline()
    found = [
        f"{kind[:-1]} {name} is {now[kind].get(name, 'gone')}; it was {was}"
        for kind in ("actions", "events")
        for name, was in first[kind].items()
        if now[kind].get(name) != was
    ]
    for kind, keeps in (("requests", _takes_as_much), ("answers", _says_the_same)):
        for name, fields in first[kind].items():
            there = now[kind].get(name, {})
            found += [
                f"{name}.{field} is {there.get(field, 'gone')}; it was {was}"
                for field, was in fields.items()
                if not keeps(was, there.get(field, ""))
            ]
            found += [
                f"{name}.{field} is new and required: an older host does not send it"
                for field, type_ in there.items()
                if field not in fields and type_.startswith(REQUIRED)
            ]
    for name, words in first["enums"].items():
        found += [f"{name} lost the word {word}" for word in words if word not in now["enums"].get(name, ())]
    return found


def _takes_as_much(was: str, now: str) -> bool:
    """Whether a request may still say what it said: it may be asked for less, and null may be allowed."""
    if now.startswith(REQUIRED) and not was.startswith(REQUIRED):
        return False
    was, now = was.removeprefix(REQUIRED), now.removeprefix(REQUIRED)
    return now in (was, was + OR_NULL)


def _says_the_same(was: str, now: str) -> bool:
    """Whether a reader finds what it found, from workers of both ages."""
    return now == was


def with_additions(now: Shape) -> str:
    """Return the baseline's text with the types that are not in it yet."""
    merged = {kind: {**now[kind], **entries} for kind, entries in baseline().items()}
    return json.dumps(merged, indent=1) + "\n"
