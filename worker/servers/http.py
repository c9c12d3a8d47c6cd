"""Questions to one server over HTTP, each bounded in time and size: a server may be down, slow, or say anything."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import urllib3

from worker.core.text import printable

CONNECT_S = 0.5
"""For how long a connection is waited for: the server is on this machine, or near it."""

ANSWER_S = 2.0
"""For how long an answer may take, from its first byte to its last."""

MAX_ANSWER_BYTES = 4 * 2**20
"""More is no answer: a list of models is some kilobytes."""

_LEAST_S = 0.001
"""A timeout of 0 would mean not to wait for what has come already."""

_CHUNK_BYTES = 64 * 2**10
_MAX_SAID_CHARACTERS = 200
_OK = 200
_FORBIDDEN = frozenset({401, 403})


class ServerError(Exception):
    """A server did not answer, or not with what it should. The message is a sentence for people."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """``status`` is the answer's, where there was one that refused."""
        super().__init__(message)
        self.status = status


class NotThereError(ServerError):
    """Nothing listens at its address: its process is gone."""


class _Request(threading.local):
    """When the request of this thread has to be over, by the monotonic clock."""

    end = 0.0


_request = _Request()


class _Socket(socket.socket):
    """Bounds a request as a whole: a timeout bounds one read, and headers that dribble take one for every byte."""

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self.settimeout(max(_LEAST_S, _request.end - time.monotonic()))
        return super().recv_into(*arguments, **named)


class _Connection(urllib3.connection.HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _Socket(fileno=super()._new_conn().detach())


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class Http:
    """One server. Thread-safe."""

    def __init__(self, url: str, authorization: str | None = None) -> None:
        """``authorization`` goes into that header, and nowhere else."""
        self._url = url.rstrip("/")
        headers = {"accept": "application/json", "user-agent": "memory-worker"}
        self._headers = headers if authorization is None else headers | {"authorization": authorization}
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=2, retries=False)
        self._pool.pool_classes_by_scheme = self._pool.pool_classes_by_scheme | {"http": _Pool}

    def get(self, path: str) -> Any:
        """Ask. Returns the JSON that came. ServerError."""
        return self._json(path, self._request("GET", path, None, ANSWER_S))

    def text(self, path: str) -> str:
        """Ask. Returns the text that came. ServerError."""
        return self._request("GET", path, None, ANSWER_S).decode("utf-8", "replace")

    def line(self, path: str, is_wanted: Callable[[bytes], bool]) -> bytes:
        """Ask for what never ends, and return the first whole line of it that is wanted. ServerError, also for none."""

        def wanted(said: bytes) -> bytes | None:
            return next((line for line in said.split(b"\n")[:-1] if is_wanted(line)), None)

        found = wanted(self._request("GET", path, None, ANSWER_S, lambda said: wanted(said) is not None))
        if found is None:
            raise ServerError(f"{path} ended without what it was asked for")
        return found

    def post(self, path: str, body: object = None, within_s: float = ANSWER_S) -> Any:
        """Send; returns the JSON that came, None where there is none. ServerError."""
        said = self._request("POST", path, None if body is None else orjson.dumps(body), within_s)
        return self._json(path, said) if said.lstrip()[:1] in {b"{", b"["} else None

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _request(
        self, method: str, path: str, body: bytes | None, within_s: float,
        is_enough: Callable[[bytes], bool] | None = None,
    ) -> bytes:  # fmt: skip
        """Send and read all of the answer, or enough, within the time, however slowly it comes. No redirect is followed."""
        _request.end = end = time.monotonic() + within_s
        headers = self._headers if body is None else self._headers | {"content-type": "application/json"}
        try:
            answer = self._pool.request(
                method, f"{self._url}{path}", body=body, headers=headers, preload_content=False,
                redirect=False, timeout=urllib3.Timeout(connect=min(CONNECT_S, within_s), read=within_s),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            is_gone = isinstance(error, urllib3.exceptions.NewConnectionError)
            raise (NotThereError if is_gone else ServerError)(_why(error)) from error
        whole = False
        try:
            said = bytearray()
            # As much as has come, however little.
            while piece := answer.read1(_CHUNK_BYTES, decode_content=False):
                said += piece
                if len(said) > MAX_ANSWER_BYTES:
                    raise ServerError(f"{path} answers with more than {MAX_ANSWER_BYTES} bytes")
                if is_enough is not None and is_enough(bytes(said)):
                    return bytes(said)
                if time.monotonic() > end:
                    raise ServerError(f"{path} did not answer within {within_s:g} s")
            whole = is_enough is None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ServerError(_why(error)) from error
        finally:
            if whole:
                answer.release_conn()
            else:
                answer.close()
        if answer.status != _OK:
            raise ServerError(self._refused(path, answer.status, bytes(said)), answer.status)
        return bytes(said)

    def _refused(self, path: str, status: int, said: bytes) -> str:
        if status in _FORBIDDEN:
            return f"{path} answers {status}: it wants another authorization than it was given"
        text = printable(said[:_MAX_SAID_CHARACTERS].decode("utf-8", "replace")).strip()
        return f"{path} answers {status}" + (f": {text}" if text else "")

    def _json(self, path: str, said: bytes) -> Any:
        try:
            return orjson.loads(said)
        except orjson.JSONDecodeError as error:
            raise ServerError(f"{path} does not answer with JSON") from error


def _why(error: BaseException) -> str:
    """Say what went wrong, without addresses of objects."""
    match error:
        case urllib3.exceptions.ConnectTimeoutError() | urllib3.exceptions.NewConnectionError():
            return "nothing answers there"
        case urllib3.exceptions.ReadTimeoutError():
            return "it does not answer in time"
        case _:
            return f"the connection failed: {type(error).__name__}"
