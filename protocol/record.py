"""Frozen records that cost little to define and to make: a worker makes several for every reply.

``@dataclass(frozen=True)`` compiles seven methods a class (50 ms of start-up for this contract) and
sets each field through a call. Here only ``__init__`` is compiled, and only when the first of its kind is
made: most kinds never are before the first answer. That fields are not assigned again is held by the
type checker, which knows these classes as frozen.
"""

from dataclasses import Field, dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

_DEFINING = RLock()
_late: list[bool] = []
"""Holds something once kinds are to be defined as they are declared."""


class _Fields:
    """Stands for the fields of a record that is not a dataclass yet: whoever asks for them makes it one."""

    def __get__(self, _: object, kind: "type[Record]") -> dict[str, Field[Any]]:
        if kind is Record:
            message = "a record without fields"
            raise AttributeError(message)
        define(kind)
        fields: dict[str, Field[Any]] = vars(kind)["__dataclass_fields__"]
        return fields


@dataclass_transform(frozen_default=True, field_specifiers=())
class Record:
    """Base of a record. A subclass declares its fields and is a dataclass; orjson writes it directly."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:
        __dataclass_fields__ = _Fields()

        def __init__(self, *args: Any, **fields: Any) -> None:
            define(type(self))
            self.__init__(*args, **fields)

    def __init_subclass__(cls) -> None:
        # One with an ``__init__`` of its own, or another record's, would not come by the one above.
        if _late or "__init__" in vars(cls) or cls.__bases__ != (Record,):
            define(cls)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


def define_at_once() -> None:
    """Define kinds from now on as they are declared: what is imported this late is about to be used."""
    _late[:] = [True]


def define(kind: type[Record]) -> None:
    """Make a kind of record a dataclass, unless it is one. Thread-safe; called again where memory was short."""
    with _DEFINING:
        if not {"__init__", "__dataclass_fields__"} <= vars(kind).keys():
            dataclass(eq=False, repr=False)(kind)
