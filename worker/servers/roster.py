"""All model servers that this worker follows: their models as external ones, and each server as a consumer."""

from collections.abc import Iterable, Iterator
from functools import partial

from protocol.vocabulary import HealthState
from worker.backends.base import KnowsProcesses
from worker.core.consumers import Consumer
from worker.core.errors import DeviceUnavailableError, WorkerError
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.models import ModelSpec, ServerSpec
from worker.core.records import HOST
from worker.manager.models import ModelManager
from worker.servers.base import Served
from worker.servers.consumer import ServerConsumer
from worker.servers.known import open_server
from worker.servers.processes import HeldBy
from worker.servers.watch import NOT_ASKED, ServerWatch, View
from worker.wiring import Core
from worker.workers.consumers import ConsumerWorker
from worker.workers.model_owners import ExternalWorker

_STATES = {None: HealthState.OK, NOT_ASKED: HealthState.STARTING}
"""How a server is by why it does not answer; for any other reason it is degraded."""


class Servers:
    """The servers. Each is followed by a thread of its own."""

    def __init__(
        self, core: Core, models: ModelManager, owners: ExternalWorker, consumers: ConsumerWorker
    ) -> None:
        self._core = core
        self._models = models
        self._owners = owners
        # All mutable state: the servers, added at the start.
        self._consumers: list[ServerConsumer] = []
        self._watches: list[ServerWatch] = []
        consumers.add_source(self._on)
        core.health.add("servers", self.health)

    def follow(self, specs: Iterable[ServerSpec], default_device: str) -> bool:
        """Begin to follow servers; one that can't be is told of, and left out. Returns whether one is followed."""
        for spec in specs:
            try:
                self._follow(spec, spec.device_id or default_device)
            except (ValueError, WorkerError) as error:
                log("warning", "a model server is not followed", server=spec.name, problem=str(error))
        return bool(self._watches)

    def end(self) -> None:
        """Say what stays behind."""
        for consumer in self._consumers:
            consumer.watch.end()

    def _follow(self, spec: ServerSpec, device_id: str) -> None:
        self._core.manager.devices.info(device_id)
        opened = open_server(spec, device_id)
        watch = ServerWatch(
            spec.name, opened, self._held_by(device_id), self._core.clock, self._changed, self._refused,
            partial(self._free_bytes, device_id),
        )  # fmt: skip
        self._owners.serve(spec.name, partial(self._unload, watch))
        watch.start()
        self._watches.append(watch)
        self._consumers.append(ServerConsumer(watch, self._core.clock, spec.reload_ms))

    def health(self) -> Iterator[PartHealth]:
        """Tell which servers answer: one that is down is not the worker's own failure."""
        for each in self._watches:
            why = each.view.why
            state = _STATES.get(why, HealthState.DEGRADED)
            yield PartHealth(f"server:{each.name}", state, why)

    def _on(self, device_id: str | None) -> Iterator[Consumer]:
        """Return the servers on a device, or all."""
        return (each for each in self._consumers if device_id in {None, each.device_id})

    def _held_by(self, device_id: str) -> HeldBy | None:
        if device_id == HOST:
            return None

        def held(pids: tuple[int, ...]) -> dict[int, int | None] | None:
            backend = self._core.backends[device_id]
            if not isinstance(backend, KnowsProcesses):
                return None
            try:
                return backend.processes(device_id, pids)
            except DeviceUnavailableError:
                return None

        return held

    def _free_bytes(self, device_id: str) -> int | None:
        readings = self._core.manager.samples.latest(device_id)
        return None if readings is None else readings.free_bytes

    def _unload(self, watch: ServerWatch, model_id: str, _reason: str) -> None:
        watch.order(model_id.removeprefix(f"{watch.name}/"))

    def _refused(self, watch: ServerWatch, model: str, why: str) -> None:
        self._owners.refused(f"{watch.name}/{model}", why)

    def _changed(self, watch: ServerWatch, before: View, now: View) -> None:
        """Take over what is loaded there by now. What a server had that does not answer is not known to be there."""
        there = {} if now.seen is None else {each.name: each for each in now.seen.models}
        was = {} if before.seen is None else {each.name: each for each in before.seen.models}
        for name, model in there.items():
            if was.get(name) != model:
                self._loaded(watch, model)
        for name in was.keys() - there.keys():
            if now.seen is None:
                self._owners.unseen(f"{watch.name}/{name}", f"its server can't be asked: {now.why}")
            else:
                self._owners.unloaded(f"{watch.name}/{name}", watch.why_gone(name))

    def _loaded(self, watch: ServerWatch, model: Served) -> None:
        spec = ModelSpec(
            f"{watch.name}/{model.name}",
            device_id=watch.device_id,
            keep_alive_ns=None,
            declared_bytes=model.size_bytes,
            server=watch.name,
        )
        self._models.seen_externally(spec, watch.device_id)
