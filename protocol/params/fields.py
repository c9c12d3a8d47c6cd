"""What all of them are made of: kinds of fields with their limits, and the strict object."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from protocol import vocabulary as words
from protocol.vocabulary import INT64_MAX

_MILLISECONDS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_PATTERN = r"^[1-9][0-9]{0,8}(ms|s|m|h|d)$"


def parse_duration_ms(text: str) -> int:
    """Read ``"90s"`` or ``"1h"`` as milliseconds. Units ms, s, m, h, d; ValueError for anything else."""
    match = re.fullmatch(r"(\d+)(\D+)", text)
    if match is None or match[2] not in _MILLISECONDS_PER_UNIT:
        message = f"{text!r} is not a duration such as '500ms', '90s', '15m', '1h' or '7d'"
        raise ValueError(message)
    return int(match[1]) * _MILLISECONDS_PER_UNIT[match[2]]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        message = f"{value} is not a power of two"
        raise ValueError(message)
    return value


KEYS_MAX = 32
"""An object with more keys than this is refused without naming them: none has as many."""

EVENTS_MAX = 100
SECTIONS_MAX = 100
EXCLUDED_MODELS_MAX = 10_000
CANDIDATES_MAX = 1_000
OFFERS_MAX = 64


def at_most(most: int) -> Any:
    """Refuse a longer list before its items are looked at: pydantic makes an error of each that is wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            message = f"a list of {len(value)} items; at most {most} are taken"
            raise ValueError(message)
        return value

    return BeforeValidator(check)


def few_keys(value: Any) -> Any:
    """Refuse an object with too many keys before they are looked at. ValueError with their number."""
    if isinstance(value, dict) and len(value) > KEYS_MAX:
        message = f"an object of {len(value)} keys; none has more than {KEYS_MAX}"
        raise ValueError(message)
    return value


Name = Annotated[str, Field(min_length=1, max_length=256)]
Bytes = Annotated[int, Field(ge=0, le=INT64_MAX)]
SizeBytes = Annotated[int, Field(ge=1, le=INT64_MAX)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Milliseconds = Annotated[int, Field(ge=0, le=INT64_MAX)]
Percent = Annotated[float, Field(gt=0, le=100)]
Alignment = Annotated[int, Field(ge=1, le=2**30), AfterValidator(_power_of_two)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN)]

# JSON has no enums: a word is read as its member, although the models are strict otherwise.
_WORD = Field(strict=False)
MemoryType = Annotated[words.MemoryType, _WORD]
Initialize = Annotated[words.Initialize, _WORD]
TransferType = Annotated[words.TransferType, _WORD]
ClearType = Annotated[words.ClearType, _WORD]
OptimizationLevel = Annotated[words.OptimizationLevel, _WORD]
GroupBy = Annotated[words.GroupBy, _WORD]
EvictionStrategy = Annotated[words.EvictionStrategy, _WORD]
UnloadMode = Annotated[words.UnloadMode, _WORD]
AnalyticsSection = Annotated[words.AnalyticsSection, _WORD]
EventName = Annotated[words.EventName, _WORD]
PressureLevel = Annotated[words.PressureLevel, _WORD]


class Params(BaseModel):
    """Base of every action's ``data``."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", protected_namespaces=(), defer_build=True
    )


class Part(Params):
    """Base of an object within ``data``."""

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        return few_keys(value)
