"""Ray, as far as a fleet needs it: a cluster of this machine's own or one that is there, and actors on its machines."""

import itertools
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from memory_worker.fleet import Directory, Node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from protocol.record import Record
from worker.fleet import leftovers
from worker.fleet.names import in_order, node_name
from worker.fleet.own_files import with_own_files
from worker.fleet.words import DIRECTORY, NAMESPACE, NODE_PREFIX

_OBJECT_STORE_BYTES = 256 * 2**20
"""What contents pass through between nodes, some pieces at a time; taken from the machine's memory as it is filled."""
_CALLS_AT_ONCE = 10_000
_CONNECT_SECONDS = 10.0
_BASE_MAX_LENGTH = 24
"""Ray's sockets lie below it, and a socket's path has at most 107 bytes."""


class Machine(Record):
    """A machine that Ray has."""

    name: str
    ray_id: str
    folder: str | None
    """Where options are to name files from; None for another machine than the gateway's."""
    has_others: bool = False
    """Whether other nodes are on it."""


class Cluster:
    """A started or joined cluster. Started by a thread that lives as long as it is to: it ends with that, also by SIGKILL.

    OSError or RuntimeError with Ray's own words where there is none.
    """

    def __init__(self, address: str | None) -> None:
        self._folder: _Folder | None = None
        # All mutable state: by name Ray's node that is there, those that are known, those that were there before another
        # came, and those that were missed.
        self._present: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()
        self._past: set[str] = set()
        self._missed: set[str] = set()
        logging.getLogger("ray").setLevel(logging.ERROR)
        shared: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
        if address is not None:
            _check(address)
            ray.init(address, **shared)
        else:
            self._folder = _Folder()
            ray.init(
                include_dashboard=False,
                num_cpus=1,
                num_gpus=0,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder.path),
                **shared,
            )
        self.own_ray_id: str = ray.get_runtime_context().get_node_id()

    def machines(self) -> dict[str, Machine]:
        """Return the machines that are there now, by name: as Ray calls its node, else the host's name."""
        found: dict[str, Machine] = {}
        named = self._by_name()
        for (base, _), ray_ids in named.items():
            name, count = base, 1
            while name in found:
                count += 1
                name = f"{base}-{count}"
            found[name] = self._machine(name, self._newest(name, ray_ids))
        self._known = frozenset(itertools.chain(*named.values()))
        return {name: found[name] for name in in_order(found)}

    def _by_name(self) -> dict[tuple[str, str], list[str]]:
        """Return the ids of Ray's nodes by name and address: two where Ray was started anew, and the old one is not missed yet."""
        named: dict[tuple[str, str], list[str]] = {}
        for row in sorted(ray.nodes(), key=lambda each: str(each["NodeID"])):
            if row["Alive"] and row["NodeID"] not in self._past:
                address, said = row["NodeManagerAddress"], row.get("NodeName") or ""
                base = node_name(row["NodeManagerHostname"] if said in {"", address} else said)
                named.setdefault((base, address), []).append(row["NodeID"])
        return named

    def _newest(self, name: str, ray_ids: list[str]) -> str:
        """Return which of them is there: one that came later than the others, which are past; else one that is not missed."""
        known = self._present.get(name)
        later = [each for each in ray_ids if each not in self._known]
        if known in ray_ids and later:
            self._past.update(each for each in ray_ids if each != later[0])
            chosen = later[0]
        else:
            chosen = min(ray_ids, key=lambda each: (each in self._missed, each != known))
        self._present[name] = chosen
        return chosen

    def missed(self, machine: Machine) -> None:
        """Note that a machine's node is lost: where Ray has two of its name and address, the other one is there."""
        self._missed.add(machine.ray_id)

    def local_machines(self, count: int) -> dict[str, Machine]:
        """Return so many machines that are all this one."""
        names = [f"node-{number}" for number in range(1, count + 1)]
        has_others = count > 1
        return {name: replace(self._machine(name, self.own_ray_id), has_others=has_others) for name in names}

    def directory(self) -> Any:
        """Return the directory, started unless it is there."""
        return self._actor(Directory, DIRECTORY, None)

    def node(self, machine: Machine, options: tuple[str, ...]) -> Any:
        """Return a machine's node, started unless it is there, with options for its worker."""
        own = with_own_files(options, machine.name) if machine.has_others else options
        name = f"{NODE_PREFIX}{machine.name}:{machine.ray_id[:16]}"  # another where Ray was started anew
        return self._actor(Node, name, machine.ray_id, machine.name, own, machine.folder, name)

    def close(self) -> None:
        """Leave the cluster; one of this machine's own ends."""
        with suppress(Exception):
            ray.shutdown()
        if self._folder is not None:
            self._folder.remove()

    def _machine(self, name: str, ray_id: str) -> Machine:
        return Machine(name, ray_id, str(Path.cwd()) if ray_id == self.own_ray_id else None)

    def _actor(self, kind: type, name: str, ray_id: str | None, *arguments: Any) -> Any:
        placed = (
            {}
            if ray_id is None
            else {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray_id, soft=False)}
        )
        return (
            ray.remote(kind)
            .options(
                name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_restarts=-1,
                max_task_retries=0, num_cpus=0, max_concurrency=_CALLS_AT_ONCE, **placed,
            )
            .remote(*arguments)
        )  # fmt: skip


def _check(address: str) -> None:
    """Raise OSError for an address at which nothing listens: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in address:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


class _Folder:
    """Where a cluster of one machine has its files, and a process that removes them and ends what is left of it."""

    def __init__(self) -> None:
        base = Path(tempfile.gettempdir())
        if len(str(base)) > _BASE_MAX_LENGTH:
            base = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder in it that only this user can enter
        self.path = Path(tempfile.mkdtemp(prefix="memory-worker-fleet-", dir=base))
        command = [sys.executable, "-I", "-S", leftovers.__file__, str(self.path)]
        self._leftovers = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - a file of this package

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
