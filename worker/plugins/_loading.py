"""``--plugin package.module``: importing plugins, and what they add."""

from worker.core.consumers import Consumers
from worker.core.operator_code import import_operators
from worker.plugins._buffers import Buffers
from worker.plugins._guard import guarded
from worker.plugins._host import PluginHost
from worker.plugins._leases import Models
from worker.stream.work import PluginAction
from worker.workers.operations import OperationWorker


class PluginError(Exception):
    """A plugin that can't be used; the message names it, and what is wrong."""


def load_plugins(
    names: list[str], models: Models, operations: OperationWorker, consumers: Consumers, buffers: Buffers
) -> dict[str, PluginAction]:
    """Import plugins, in order, and return their actions. PluginError for the first that fails."""
    actions: dict[str, PluginAction] = {}
    for name in names:
        try:
            known = set(actions)
            import_operators(name).register(PluginHost(models, operations, consumers, buffers, actions))
        except Exception as error:
            raise PluginError(f"{name}: {type(error).__name__}: {error}") from error
        for action in actions.keys() - known:
            actions[action] = guarded(actions[action], action, name)
    return actions
