"""Frozen records that cost little to define and to make: a worker makes several for every reply.

``@dataclass(frozen=True)`` compiles seven methods a class (50 ms of start-up for this contract) and
sets each field through a call. Here only ``__init__`` is compiled; that fields are not assigned
again is held by the type checker, which knows these classes as frozen.
"""

from dataclasses import Field, dataclass
from typing import Any, ClassVar, dataclass_transform


@dataclass_transform(frozen_default=True, field_specifiers=())
class Record:
    """Base of a record. A subclass declares its fields and is a dataclass; orjson writes it directly."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"
