"""Actions of a plugin that misbehaves: odd errors, odd answers, exits, and work that takes its time."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from worker.plugins import Call, PluginHost, UnsupportedError


def _raise(make: Callable[[], BaseException]) -> Callable[[dict[str, Any], Call], Any]:
    def act(_data: dict[str, Any], _call: Call) -> Any:
        raise make()

    return act


def _deep(_data: dict[str, Any], _call: Call) -> Any:
    value: Any = []
    for _ in range(70):
        value = [value]
    return value


def _recursion(data: dict[str, Any], call: Call) -> Any:
    return _recursion(data, call)


def _progress(_data: dict[str, Any], call: Call) -> Any:
    call.report(2**64, 2**65)
    return {}


def _hang(data: dict[str, Any], call: Call) -> Any:
    call.report(0, 1)  # it has begun
    threading.Event().wait(data["seconds"])  # and notices nothing meanwhile
    return {}


def _stderr(_data: dict[str, Any], _call: Call) -> Any:
    for _ in range(5000):
        print("x" * 100)  # noqa: T201 - plugins print, and the protocol's stdout is to outlive it
    return {}


ODD: dict[str, Callable[[dict[str, Any], Call], Any]] = {
    "big": _raise(lambda: UnsupportedError("too big", size_bytes=2**64)),
    "object": _raise(lambda: UnsupportedError("an object", path=object())),
    "surrogate": _raise(lambda: UnsupportedError("\ud800")),
    "exit": lambda _data, _call: sys.exit(3),
    "interrupt": _raise(KeyboardInterrupt),
    "generator": _raise(GeneratorExit),
    "memory": _raise(MemoryError),
    "mute": _raise(type("Mute", (Exception,), {"__str__": lambda _: 1 / 0})),
    "keys": lambda _data, _call: {1: {2}},
    "result": lambda _data, _call: {"x": 2**64},
    "deep": _deep,
    "recursion": _recursion,
    "progress": _progress,
}


def register(host: PluginHost) -> None:
    """Add them."""
    for name, act in ODD.items():
        host.add_action(f"odd.{name}", act)
    host.add_action("odd.hang", _hang)
    host.add_action("odd.print", _stderr)
    host.add_action("odd.nan", lambda _data, _call: {"x": float("nan")})
