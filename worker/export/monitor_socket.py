"""``--monitor-socket``: the protocol's questions on a local socket, for a live view. Changes nothing.

Only the owner gets in: the socket has mode 0600, and the system tells who is at the other end. Each client
has two threads, a bounded outbox and a pace; one that does not read is let go. The worker's own threads
never wait for any of them. POSIX only.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic

from worker.core.clock import Clock
from worker.core.log import log
from worker.core.paths import make_private
from worker.core.shortages import shortage, start_thread
from worker.core.sure_lock import SureLock
from worker.export.monitor_client import EventsT, MonitorClient, Prepare
from worker.export.socket_path import default_path
from worker.stream.event_channel import Write

__all__ = ["MonitorSocket", "PrepareFor", "default_path"]

_SHORT_SECONDS = 0.1
"""Until a client is looked for again where something was short."""
MAX_CLIENTS = 8

PrepareFor = Callable[[MonitorClient[EventsT]], Prepare]
"""Makes what turns a client's requests into work."""


class MonitorSocket(Generic[EventsT]):
    """Listens, and serves each client on threads of its own."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        events: Callable[[Write], EventsT],
    ) -> None:
        """Bind. ``events`` makes what a client's events go through.

        OSError where there is no such socket, the path exists, or its folder is not private.
        """
        self._path = path
        self._clock = clock
        self._events = events
        if path == default_path(os.getpid()):
            make_private(path.parent)
        self._listener = _listen(path)
        self._lock = SureLock()
        # All mutable state: who is connected.
        self._clients: tuple[MonitorClient[EventsT], ...] = ()

    def start(self, prepare_for: PrepareFor[EventsT]) -> None:
        """Let clients in."""
        start_thread(partial(self._accept, prepare_for), "monitor")

    @property
    def events(self) -> tuple[EventsT, ...]:
        """The clients' events, to pass one on: none of them waits."""
        return tuple(client.events for client in self._clients)

    def close(self) -> None:
        """Let no client in any more, and all of them go."""
        with suppress(OSError):
            self._path.unlink()
        self._listener.close()
        for client in self._clients:
            client.close()

    def _accept(self, prepare_for: PrepareFor[EventsT]) -> None:
        while True:
            try:
                self._admit(self._listener.accept()[0], prepare_for)
            except Exception as error:  # noqa: BLE001 - short memory, descriptors or threads pass, one client may fail, and others may come
                if self._listener.fileno() < 0:
                    return  # closed
                if shortage(error) is None:
                    log("warning", "a live view could not be let in", error=repr(error))
                time.sleep(_SHORT_SECONDS)

    def _admit(self, connection: socket.socket, prepare_for: PrepareFor[EventsT]) -> None:
        """Serve a client, or close its connection where that cannot be."""
        try:
            if not _is_owner(connection) or len(self._clients) >= MAX_CLIENTS:
                log("warning", "a live view was refused", clients=len(self._clients))
                connection.close()
                return
            client = MonitorClient(connection, self._clock, self._events, self._gone)
            with self._lock:
                self._clients = (*self._clients, client)
            try:
                client.start(prepare_for(client))
            except BaseException:
                self._gone(client)
                raise
        except BaseException:
            connection.close()
            raise

    def _gone(self, client: MonitorClient[EventsT]) -> None:
        with self._lock:
            self._clients = tuple(each for each in self._clients if each is not client)


def _listen(path: Path) -> socket.socket:
    """Listen at a path, in place of a socket that a killed worker left there."""
    if sys.platform == "win32":
        raise OSError("this system has no local sockets that Python can listen on; follow a --record file")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and _is_dead(path):
            path.unlink()
        before = os.umask(0o177)  # from the first moment on: a mode set afterwards leaves a gap
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(MAX_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


def _is_dead(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def _is_owner(connection: socket.socket) -> bool:
    """Tell whether the other end is this user, or root, who could anyway; True where the system does not say."""
    if sys.platform == "win32" or not hasattr(socket, "SO_PEERCRED"):
        return True  # the file's mode has to do
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in {os.geteuid(), 0}
