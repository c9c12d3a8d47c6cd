"""A plugin that tells what its worker would still have to make at its first use."""

from typing import Any

from pydantic import BaseModel

from protocol.record import Record
from worker.app.first_use import kinds_of
from worker.plugins import Call, PluginHost


def unmade() -> list[str]:
    """Return the kinds of values that are still to be made."""
    records = (
        each for each in kinds_of(Record) if not {"__init__", "__dataclass_fields__"} <= vars(each).keys()
    )
    models = (each for each in kinds_of(BaseModel) if not each.__pydantic_complete__)
    return [each.__name__ for each in (*records, *models)]


def _unmade(_data: dict[str, Any], _call: Call) -> dict[str, list[str]]:
    return {"names": unmade()}


def register(host: PluginHost) -> None:
    """Add the action."""
    host.add_action("test.unmade", _unmade)
