"""One row an action: its handler, and what it claims; held against the table of the contract at the start."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args, get_type_hints

from protocol.actions import ACTIONS, Action
from protocol.record import Record
from worker.stream.work import Answer, Claim

Claims = tuple[tuple[Claim, ...], bool]
"""What a request needs for itself or shares, and whether it is quick."""

Handler = Callable[..., Any]
"""Called with the params and the call; with the new allocation's id, too, where the binding says so."""

ClaimsOf = Callable[[Any], Claims]
"""Called with the params, by the reading thread. Without it a request claims nothing, and is quick."""


class Binding(Record):
    """An action, and what carries it out."""

    row: Action
    handler: Handler
    claims: ClaimsOf | None
    makes_allocation: bool
    """Its allocation gets its id when the request is admitted, so that ids follow the order of requests."""
    intervenes: bool
    """It frees memory, or changes what may be taken: noted each time it is carried out, so not in a dry run."""
    brief: bool = False
    """It waits for nothing, and others may wait for it: it runs beside their threads."""


class Bindings:
    """The actions that are answered, in the order in which they were bound."""

    def __init__(self) -> None:
        # All mutable state: each action's binding, or what binds it and others when the first of them is asked for.
        self._rows: dict[str, Binding | Callable[[Bindings], None]] = {}

    def bind(
        self,
        name: str,
        handler: Handler,
        claims: ClaimsOf | None = None,
        *,
        makes_allocation: bool = False,
        intervenes: bool = False,
        brief: bool = False,
    ) -> None:
        """Bind an action. TypeError for one that is not in the table or bound already, or for other types."""
        row = ACTIONS.get(name)
        if row is None or isinstance(self._rows.get(name), Binding):
            message = f"{name} is {'bound already' if row else 'not in the table of actions'}"
            raise TypeError(message)
        takes, answers = _types_of(handler)
        if takes is not row.params or answers not in {row.result, Answer, row.result | Answer}:
            message = f"{name}: the handler takes {takes} and answers {answers}, the table says"
            message += f" {row.params} and {row.result}"
            raise TypeError(message)
        if claims is not None:
            claimed = _types_of(claims)[0]
            if row.params not in (get_args(claimed) or (claimed,)):
                message = f"{name}: the claims are of {claimed}, the table says {row.params}"
                raise TypeError(message)
        self._rows[name] = Binding(row, handler, claims, makes_allocation, intervenes, brief)

    def bind_later(self, names: Iterable[str], bind_all: "Callable[[Bindings], None]") -> None:
        """Bind actions when the first of them is asked for: what they need is imported no sooner."""
        self._rows.update(dict.fromkeys(names, bind_all))

    def check_complete(self) -> None:
        """Raise TypeError with the names of actions that are not bound."""
        missing = ACTIONS.keys() - self._rows.keys()
        if missing:
            message = f"not bound: {', '.join(sorted(missing))}"
            raise TypeError(message)

    def get(self, name: str) -> Binding | None:
        """Return an action's binding; None for one that is not bound."""
        found = self._rows.get(name)
        if found is None or isinstance(found, Binding):
            return found
        found(self)
        return self.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)


def _types_of(function: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what a function takes first, and what it returns."""
    hints = function.__annotations__
    if any(isinstance(hint, str) for hint in hints.values()):  # few are: to look them up takes a while
        hints = get_type_hints(function)
    return next(iter(hints.values())), hints["return"]
