"""What a request that is none is answered: the path of each fault, and the nearest name that exists."""

from collections.abc import Iterable

from pydantic import ValidationError

from protocol.actions import ACTIONS
from protocol.params import Params
from worker.core.errors import InvalidRequestError, UnknownActionError

_FIELD_OF_SEVERAL_TYPES = 2


def unknown_action(action: str, plugins: Iterable[str]) -> UnknownActionError:
    """Make the error for an action that neither the contract nor a plugin has."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    known = sorted((*ACTIONS, *plugins))
    nearest = next(iter(get_close_matches(action, known, n=1, cutoff=0.4)), None)
    hint = f"; did you mean {nearest}?" if nearest is not None else ""
    message = f"no action {action!r}{hint}"
    return UnknownActionError(message, action=action, known_actions=known, nearest=nearest)


def invalid(error: ValidationError, params: type[Params]) -> InvalidRequestError:
    """Name each path of what pydantic refused, an unknown key with the nearest known one."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    found = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = "unknown key"
            nearest = get_close_matches(str(each["loc"][-1]), list(params.model_fields), n=1)
            if nearest:
                message += f"; did you mean {nearest[0]}?"
        path = ["data", *map(str, each["loc"])]
        if len(path) > _FIELD_OF_SEVERAL_TYPES and path[-1].endswith(("]", "float")):
            path.pop()  # not a key: the type that did not fit, of several that might
        found.append({"path": ".".join(path), "message": message})
    return InvalidRequestError(found)
