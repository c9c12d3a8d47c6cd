"""Which fields of a request go together: one statement, from which come pydantic's check, the JSON Schema and the C# twins."""

from typing import Any, ClassVar, Self

from pydantic import ConfigDict, model_validator

from protocol.params.fields import Params


class Way:
    """Fields that are all given, and others that may be beside them."""

    def __init__(self, *needed: str, beside: tuple[str, ...] = ()) -> None:
        self.needed, self.beside = needed, beside


class Choice:
    """Of all fields that its ways name, those that are given fit one of the ways. Null is not given."""

    def __init__(self, message: str, *ways: Way) -> None:
        self.message, self.ways = message, ways
        self.names = tuple(dict.fromkeys(name for way in ways for name in way.needed + way.beside))
        self._fitting = [
            (frozenset(self.names).difference(way.beside), frozenset(way.needed)) for way in ways
        ]

    def fits(self, given: frozenset[str]) -> bool:
        """Tell whether the fields that are given are one of the ways; other fields count for nothing."""
        return any(given & told_apart == needed for told_apart, needed in self._fitting)

    def json_schema(self) -> dict[str, Any]:
        """Return the same as a JSON Schema."""
        return {"oneOf": [self._stated(way) for way in self.ways]}

    def _stated(self, way: Way) -> dict[str, Any]:
        absent = [name for name in self.names if name not in way.needed + way.beside]
        properties = {
            **{name: {"not": {"type": "null"}} for name in way.needed},
            **{name: {"type": "null"} for name in absent},
        }
        return {**({"required": [*way.needed]} if way.needed else {}), "properties": properties}


def exactly_one(*names: str) -> Choice:
    """One of the fields is given, and no other of them."""
    return Choice(f"exactly one of {_listed(names)} is needed", *map(Way, names))


def at_most_one(*names: str) -> Choice:
    """Two of the fields are never given together."""
    return Choice(f"{_listed(names)}: at most one is taken", Way(), *map(Way, names))


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _state(schema: dict[str, Any], kind: "type[Choosing]") -> None:
    stated = [choice.json_schema() for choice in kind.choices]
    schema.update(stated[0] if len(stated) == 1 else {"allOf": stated})


class Choosing(Params):
    """Base of an object with such fields."""

    model_config = ConfigDict(json_schema_extra=_state)
    choices: ClassVar[tuple[Choice, ...]]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        given = frozenset(name for name in self.model_fields_set if getattr(self, name) is not None)
        for choice in self.choices:
            if not choice.fits(given):
                raise ValueError(choice.message)
        return self
