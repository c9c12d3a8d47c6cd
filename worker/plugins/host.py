"""``--plugin package.module``: the operator's own actions in this worker, with models through leases.

The module defines ``register(host)`` and adds actions in it. See docs/plugins.md.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from protocol.actions import ACTIONS, OLDER_NAMES
from worker.plugins.leases import Models
from worker.plugins.operations import Operations
from worker.plugins.remote_action import ModelAction, check_can_go
from worker.stream.work import Call, PluginAction

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

    def add_model_action(
        self, name: str, run: ModelAction, model: str | Callable[[dict[str, Any]], str]
    ) -> None:
        """Add an action that works on a model, where that is: ``run(weights, data, call)``.

        ``model`` is its id, or tells it from ``data``. ValueError as ``add_action``, and for a ``run`` that is no
        function of its module.
        """
        check_can_go(run)

        def lease_and_run(data: dict[str, Any], call: Call) -> Any:
            model_id = model if isinstance(model, str) else model(data)
            with self.models.use(model_id, token=call.token) as weights:
                return weights.do(run, data, call)

        self.add_action(name, lease_and_run)

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
