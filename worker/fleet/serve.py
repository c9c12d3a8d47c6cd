"""A fleet's gateway, put together: the stream as for any worker, and nodes on Ray in place of devices."""

import gc
import secrets
from argparse import Namespace
from functools import partial
from typing import NoReturn

from protocol.actions import ACTIONS
from worker import __version__
from worker.core.clock import SystemClock
from worker.core.errors import WorkerError
from worker.core.health import Health
from worker.core.heap import use_one_heap
from worker.core.ids import Ids
from worker.core.log import log, log_health
from worker.core.shortages import RESERVE
from worker.fleet.channel import Channel
from worker.fleet.clients import Clients, LiveViews
from worker.fleet.cluster import Cluster
from worker.fleet.draining import Draining
from worker.fleet.everywhere import Everywhere
from worker.fleet.following import Following
from worker.fleet.gateway import Gateway
from worker.fleet.holdings import Holdings
from worker.fleet.losses import Losses
from worker.fleet.machines import Machines
from worker.fleet.placing import Placing
from worker.fleet.roster import Roster
from worker.fleet.transfers import Transfers
from worker.fleet.words import FleetError
from worker.metrics.history import History
from worker.stream.alarm import Alarm
from worker.stream.event_writer import EventWriter
from worker.stream.figures_ticker import taken_by
from worker.stream.frame_writer import FrameWriter
from worker.stream.job_runner import JobRunner
from worker.stream.stdio_loop import StdioLoop
from worker.telemetry.system import SystemMemory

_LEAVE_SECONDS = 8.0
"""How long nodes may take to free what this gateway has; less than the loop waits for all of closing."""


def serve_fleet(own: Namespace, options: tuple[str, ...], read_fd: int, write_fd: int) -> NoReturn:
    """Serve requests until the host is done. Does not return: the process ends with 0."""
    use_one_heap()
    RESERVE.fill()
    clock = SystemClock()
    timers, history, started_ns = Alarm(clock), History(clock), clock.now_ns()
    writer = FrameWriter(write_fd)
    event_writer = EventWriter(writer)
    channel = Channel(event_writer.write)
    runner = JobRunner(
        writer, event_writer, clock, timers, history, tuple, max_inflight=own.max_inflight,
        max_frame_bytes=own.max_frame_bytes, threads_max=own.max_inflight,
    )  # fmt: skip
    views = LiveViews(own.monitor_socket, clock, channel)
    cluster = _cluster(own.address)
    machines = _machines(cluster, own, options)
    own_node = machines.own
    holdings, gateway_id = Holdings(), secrets.token_hex(8)
    losses = Losses(holdings, views.publish)
    roster = Roster(machines, gateway_id, losses.event, losses.lost, losses.back)
    following = Following(roster)

    def close() -> None:
        views.close()
        following.close(_LEAVE_SECONDS)
        cluster.close()

    try:
        following.start(own_node)
    except WorkerError as error:
        close()
        raise FleetError(error.message) from None
    loop = StdioLoop(
        read_fd, writer, runner, channel, (timers.run_due,), close, max_frame_bytes=own.max_frame_bytes
    )
    writer.when_broken(loop.output_lost)
    health = Health()
    for name, source in (("requests", runner.health), ("events", event_writer.health), ("log", log_health)):
        health.add(name, source)
    health.add("nodes", roster.health)
    actions = (*ACTIONS, *roster.plugins)
    everywhere = Everywhere(roster, own_node, history, health)
    placing = Placing(roster, own_node)
    transfers = Transfers(roster, own_node, holdings, Ids(gateway_id))
    draining = Draining(roster, holdings, placing, transfers)
    gateway_with = partial(Gateway, roster, own_node, holdings, placing, everywhere, transfers, draining)
    later = taken_by(runner.submit, timers)
    clients = Clients(clock, started_ns, later, actions, health, everywhere, gateway_with)
    gateway = clients.gateway(loop, channel, lambda: True)
    timers.start()
    event_writer.start()
    runner.start()
    views.start(clients, health)
    log("info", "serving", version=__version__, nodes=roster.names())
    gc.freeze()  # what is there by now stays: no collection looks at it again
    loop.run(gateway.prepare)
    raise AssertionError


def _cluster(address: str | None) -> Cluster:
    try:
        return Cluster(address)
    except Exception as error:  # noqa: BLE001 - Ray raises whatever its parts do
        where = "Ray did not start" if address is None else f"no Ray cluster was joined at {address}"
        said = str(error).strip().partition("\n")[0] or repr(error)
        raise FleetError(f"{where}: {said}") from None


def _machines(cluster: Cluster, own: Namespace, options: tuple[str, ...]) -> Machines:
    if own.address is not None:
        return Machines(cluster, cluster.machines, options)
    return Machines(cluster, lambda: cluster.local_machines(own.nodes or 1), (*options, *_share(own)))


def _share(own: Namespace) -> tuple[str, ...]:
    """Return options that have several nodes of one machine share its memory: each may take its part, and no more."""
    nodes, budget = own.nodes or 1, SystemMemory().read().budget_bytes
    if nodes == 1 or budget is None:
        return ()
    part = budget // nodes
    return ("--limit-bytes", str(part if own.limit_bytes is None else min(part, own.limit_bytes)))
