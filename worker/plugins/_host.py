"""What a plugin is handed: ``register(host)`` adds the operator's own actions. See docs/plugins.md."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from worker.plugins._remote_action import ModelAction, check_can_go
from worker.stream.work import Call, PluginAction

if TYPE_CHECKING:
    from worker.core.consumers import Consumers
    from worker.plugins._buffers import Buffers
    from worker.plugins._leases import Models
    from worker.plugins._stores import HostStores
    from worker.plugins._streams import Streams
    from worker.workers.operations import OperationWorker

RESERVED = ("memory.", "worker.")
"""All of the protocol's first actions began so."""


class PluginHost:
    """What a plugin is handed."""

    def __init__(
        self,
        models: "Models",
        operations: "OperationWorker",
        consumers: "Consumers",
        buffers: "Buffers",
        streams: "Streams",
        stores: "Callable[[], HostStores]",
        actions: dict[str, PluginAction],
    ) -> None:
        self.models = models
        self.consumers = consumers
        """``host.consumers.add(cache)``: what it holds is given back for its price, before anything dearer goes."""
        self.buffers = buffers
        """``with host.buffers.take((256, 384), "float32") as buffer:`` lends memory to work in."""
        self.stream = streams.stream
        """``with host.stream("large.jsonl") as windows:`` reads a file in windows that fit."""
        self.operation = operations.operation
        """``with host.operation("embed"):`` measures what is done inside."""
        self._stores = stores
        self._actions = actions

    @property
    def stores(self) -> "HostStores":
        """``host.stores.cache("answers", bytes="512MiB")``: memory that is bounded, priced and kept apart by scope."""
        return self._stores()

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
        if name in self._actions or name.startswith(RESERVED):
            raise ValueError(f"the action {name!r} is not a plugin's to add")
        self._actions[name] = run
