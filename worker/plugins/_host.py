"""What a plugin is handed: ``register(host)`` adds the operator's own actions. See docs/plugins.md."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from worker.plugins._remote_action import ModelAction, check_can_go
from worker.stream.work import Call, PluginAction

if TYPE_CHECKING:
    from worker.core.cancellation import CancelToken
    from worker.core.consumers import Consumers
    from worker.core.records import Report
    from worker.plugins._batches import Batches, Plannable
    from worker.plugins._buffers import Buffers
    from worker.plugins._leases import Models
    from worker.plugins._stores import HostStores
    from worker.plugins._streams import Streams
    from worker.workers.operations import OperationWorker

T = TypeVar("T")

RESERVED = ("memory.", "worker.")
"""All of the protocol's first actions began so."""
RESERVED_SINCE = ("store.", "stream.", "operation.", "fleet.")
"""The protocol's later actions begin so. A plugin that had such a name before keeps it, in place of the protocol's own."""


class PluginHost:
    """What a plugin is handed."""

    def __init__(
        self,
        models: "Models",
        operations: "OperationWorker",
        consumers: "Consumers",
        buffers: "Buffers",
        streams: "Streams",
        plannable: "Plannable",
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
        self._plannable = plannable
        self._actions = actions

    def batches(
        self, items: Iterable[T], bytes_per_item: int, *, report: "Report | None" = None, device: str = "cuda:0",
        fallback: str | None = "cpu", token: "CancelToken | None" = None, fixed_bytes: int = 0,
        max_fraction: float = 0.8,
    ) -> "Batches[T]":  # fmt: skip
        """Return items in batches that fit: each as large as ``max_fraction`` of the headroom is when it is asked for.

        Used as ``for batch in batches: with batch as items: ...``, one that runs out of memory is done again in two
        halves, and where one item alone does, or the device is lost, on ``fallback``; the block should keep its result
        last. ``report(done, total)`` is called after each, and the token is looked at before each. Each takes
        ``fixed_bytes`` besides its items. ``batches.saved`` says what came of it. ValueError for sizes that are none.
        """
        from worker.plugins._batches import Batches  # noqa: PLC0415 - a device's process needs none of it

        return Batches(
            self._plannable, items, bytes_per_item, report=report, device=device, fallback=fallback, token=token,
            fixed_bytes=fixed_bytes, max_fraction=max_fraction,
        )  # fmt: skip

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
