"""``--plugin package.module``: the operator's own actions in this worker, with models through leases.

The module defines ``register(host)`` and adds actions in it. See docs/plugins.md.
"""

from importlib import import_module

from protocol.actions import ACTIONS, OLDER_NAMES
from worker.models_api import Models
from worker.operations import Operations
from worker.stream.work import PluginAction

RESERVED = ("memory.", "worker.")


class PluginError(Exception):
    """A plugin that can't be used; the message names it, and what is wrong."""


class PluginHost:
    """What a plugin is handed."""

    def __init__(self, models: Models, operations: Operations) -> None:
        self.models = models
        self.operation = operations.operation
        """``with host.operation("embed"):`` measures what is done inside."""
        self.actions: dict[str, PluginAction] = {}

    def add_action(self, name: str, run: PluginAction) -> None:
        """Add an action. ValueError for a name that is taken, or is of the protocol's own."""
        if name in self.actions or name in ACTIONS or name in OLDER_NAMES or name.startswith(RESERVED):
            raise ValueError(f"the action {name!r} is not a plugin's to add")
        self.actions[name] = run


def load_plugins(names: list[str], models: Models, operations: Operations) -> dict[str, PluginAction]:
    """Import plugins, in order, and return their actions. PluginError for the first that fails."""
    host = PluginHost(models, operations)
    for name in names:
        try:
            import_module(name).register(host)
        except Exception as error:
            raise PluginError(f"{name}: {type(error).__name__}: {error}") from error
    return host.actions
