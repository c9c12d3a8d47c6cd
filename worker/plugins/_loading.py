"""``--plugin package.module``: importing plugins, and what they add."""

from collections.abc import Callable
from pathlib import Path

from worker.core.log import log
from worker.core.operator_code import import_operators
from worker.plugins._guard import guarded
from worker.plugins._host import RESERVED_SINCE, PluginHost
from worker.stream.work import PluginAction


class PluginError(Exception):
    """A plugin that can't be used; the message names it, and what is wrong."""


def load_plugins(
    names: list[str], host_of: Callable[[dict[str, PluginAction]], PluginHost]
) -> dict[str, PluginAction]:
    """Import plugins, in order, and return their actions. PluginError for the first that fails.

    ``host_of`` makes what each is handed, which adds to these actions.
    """
    actions: dict[str, PluginAction] = {}
    for name in names:
        try:
            known = set(actions)
            import_operators(name).register(host_of(actions))
        except (Exception, SystemExit) as error:
            why = _why_no_name(name) if isinstance(error, ModuleNotFoundError | TypeError) else None
            raise PluginError(f"{name}: {why or f'{type(error).__name__}: {error}'}") from error
        for action in actions.keys() - known:
            if action.startswith(RESERVED_SINCE):
                told = f"{', '.join(RESERVED_SINCE)} begin the protocol's own: give it another name"
                log(
                    "warning",
                    "a plugin's action has a reserved name, and keeps it",
                    action=action,
                    problem=told,
                )
            actions[action] = guarded(actions[action], action, name)
    return actions


def _why_no_name(name: str) -> str | None:
    """Say what to name instead of a file; None for what may be a module's name."""
    path = Path(name)
    if path.suffix != ".py" and path.name == name:
        return None
    return (
        f"it is a file's name: give the module's, {path.stem}, as import does, and have its folder on PYTHONPATH, or start the"
        " worker in it"
    )
