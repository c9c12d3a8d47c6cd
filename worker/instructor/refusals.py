"""What a request that is none is answered: the path of each fault, and the nearest name that exists.

However long the line was, the work is bounded: the first faults are named, and long names are cut and compared
with nothing.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from protocol.actions import ACTIONS
from protocol.params import Params, few_keys
from worker.core.errors import InvalidRequestError, UnknownActionError
from worker.core.text import nearest
from worker.stream.envelope import cut, fault_text

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_FIELD_OF_SEVERAL_TYPES = 2

ERRORS_TOLD = 100
"""Faults of a request that are named; the others are counted."""


def unknown_action(action: str, plugins: Iterable[str]) -> UnknownActionError:
    """Make the error for an action that neither the contract nor a plugin has."""
    known = sorted((*ACTIONS, *plugins))
    meant = nearest(action, known, cutoff=0.4)
    hint = f"; did you mean {meant}?" if meant is not None else ""
    message = f"no action {action!r}{hint}"
    return UnknownActionError(message, action=action, known_actions=known, nearest=meant)


def check_size(data: dict[str, Any]) -> None:
    """Refuse an object that can't be right before it is read key by key. InvalidRequestError."""
    try:
        few_keys(data)
    except ValueError as error:
        raise InvalidRequestError.at("data", str(error)) from None


def _of_its_items(fault: "ErrorDetails") -> bool:
    """Tell whether a list is too short by the items alone that were refused, which are told."""
    return fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]


def invalid(error: ValidationError, params: type[Params]) -> InvalidRequestError:
    """Name each path of what pydantic refused, an unknown key with the nearest known one."""
    found = []
    faults = [each for each in error.errors(include_url=False) if not _of_its_items(each)]
    for each in faults[:ERRORS_TOLD]:
        message = fault_text(each)
        if each["type"] == "extra_forbidden":
            message = "unknown key"
            meant = nearest(str(each["loc"][-1]), params.model_fields)
            if meant is not None:
                message += f"; did you mean {meant}?"
        path = ["data", *map(cut, each["loc"])]
        if len(path) > _FIELD_OF_SEVERAL_TYPES and path[-1].endswith(("]", "float")):
            path.pop()  # not a key: the type that did not fit, of several that might
        found.append({"path": ".".join(path), "message": message})
    if len(faults) > ERRORS_TOLD:
        found.append({"path": "data", "message": f"{len(faults) - ERRORS_TOLD} more faults are not named"})
    return InvalidRequestError(found)
