"""A worker that answers by the book until it is told to misbehave: what a host must survive, as a real process.

It knows the protocol's envelope and few actions. ``fake.<name>`` actions do as they are named; options
misbehave from the start. Standard library only, so that it starts fast. Nothing here sleeps: what is to be late
waits for a gate (a FIFO that the test opens) or for ever.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Json = dict[str, Any]

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once, also on Windows, where the one is not there and the other cannot be caught."""

_hanging: dict[str, str] = {}
"""Requests that were taken and not answered, and the action of each."""
_held: list[tuple[str, Json]] = []
"""Requests whose answers wait for more, to be given in reverse order."""
_allocated: dict[str, Json] = {}
"""What was handed out and not given back."""
_events: list[str] = []
"""The events that it has; empty for any."""
_subscribed: list[str] = []
"""The events that were asked for last."""
_figures_every_ms: list[int | None] = [None]
"""How often figures were asked for last; null where that was not said."""


def send(line: Json) -> None:
    """Write one frame."""
    raw(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def raw(data: bytes) -> None:
    """Write bytes as they are."""
    while data:
        data = data[os.write(1, data) :]


def succeed(request_id: str, data: Json) -> None:
    """Answer with success."""
    send({"request_id": request_id, "success": True, "data": data})


def fail(request_id: str, code: str, details: Json | None = None, *, retryable: bool = False) -> None:
    """Answer with an error."""
    error = {
        "code": code,
        "message": f"told to: {code}",
        "executed": "no",
        "retryable": retryable,
        "details": details or {"fake": 1},
    }
    send({"request_id": request_id, "success": False, "error": error})


def wait_for_ever() -> NoReturn:
    """Read nothing, answer nothing, until killed."""
    while True:
        threading.Event().wait()


# ---- what can be asked of it ------------------------------------------------------------------------


def hello(request_id: str, _data: Json) -> None:
    limits = {"max_frame_bytes": 2**24, "max_inflight": 256}
    answer = {"protocol": 1, "worker_version": "fake", "pid": os.getpid(), "actions": [], "limits": limits}
    succeed(request_id, {**answer, "schema_sha256": ""})


def cancel(request_id: str, data: Json) -> None:
    action = _hanging.get(data["request_id"])
    if action in ("fake.hang", "fake.hang_reporting"):
        del _hanging[data["request_id"]]
        fail(data["request_id"], "cancelled", retryable=True)
    elif action == "fake.late_allocate":
        del _hanging[data["request_id"]]
        allocate(data["request_id"], {"size_bytes": 64})
    succeed(request_id, {"found": action is not None})


def allocate(request_id: str, data: Json) -> None:
    size = data["size_bytes"]
    made = {
        "allocation_id": f"alloc-{request_id}",
        "device_id": "cpu",
        "memory_type": "device",
        "size_bytes": size,
        "actual_bytes": size,
        "shared_memory": None,
    }
    about = {"owner": data.get("owner"), "purpose": None, "persistent": False, "age_ms": 0}
    _allocated[made["allocation_id"]] = {**made, **about, "lease_expires_in_ms": None}
    succeed(request_id, {**made, "available_bytes": None, "models_unloaded": []})


def deallocate(request_id: str, data: Json) -> None:
    _allocated.pop(data["allocation_id"], None)
    answer = {"allocation_id": data["allocation_id"], "device_id": "cpu", "freed_bytes": 1}
    succeed(request_id, {**answer, "returned_bytes": None, "available_bytes": None})


def renew_lease(request_id: str, data: Json) -> None:
    succeed(request_id, {"allocation_id": data["allocation_id"], "lease_expires_in_ms": data["lease_ms"]})


def get_allocations(request_id: str, _data: Json) -> None:
    succeed(request_id, {"allocations": [*_allocated.values()], "next": None})


def clear(request_id: str, data: Json) -> None:
    """Free an owner's, as a worker did that does not list what it freed."""
    gone = [key for key, one in _allocated.items() if one["owner"] == data["owner"]]
    for key in gone:
        del _allocated[key]
    answer = {"cleared_bytes": len(gone), "returned_bytes": None, "allocations_freed": len(gone)}
    succeed(request_id, {**answer, "models_unloaded": [], "kept": []})


def usage(request_id: str, _data: Json) -> None:
    succeed(request_id, {"devices": []})


def ping(request_id: str, _data: Json) -> None:
    succeed(request_id, {"uptime_ms": 1})


def subscribe(request_id: str, data: Json) -> None:
    """Subscribe; refuse the events that it does not have, by their places, as the worker does."""
    unknown = [at for at, one in enumerate(data["events"]) if _events and one not in _events]
    if unknown:
        errors = [{"path": f"data.events.{at}", "message": "there is no such event"} for at in unknown]
        fail(request_id, "invalid_request", {"errors": errors})
        return
    _subscribed[:] = data["events"]
    _figures_every_ms[:] = [data.get("figures_every_ms")]
    succeed(request_id, {"events": data["events"]})


def subscribed(request_id: str, _data: Json) -> None:
    succeed(request_id, {"events": _subscribed, "figures_every_ms": _figures_every_ms[0]})


def shutdown(request_id: str, _data: Json) -> NoReturn:
    for hanging in _hanging:
        fail(hanging, "shutting_down", retryable=True)
    succeed(request_id, {"drained": len(_hanging)})
    sys.exit(0)


def hang(request_id: str, _data: Json) -> None:
    """Answer nothing until cancelled, or never."""


def freeze(_request_id: str, _data: Json) -> NoReturn:
    wait_for_ever()


def leave(_request_id: str, data: Json) -> NoReturn:
    os._exit(data.get("code", 0))


def die_mid_frame(request_id: str, _data: Json) -> NoReturn:
    raw(f'{{"request_id": "{request_id}", "success": true, "data": {{"half'.encode())
    os.kill(os.getpid(), KILL)
    wait_for_ever()


def garbage(request_id: str, data: Json) -> None:
    for line in data["lines"]:
        raw(line.encode() + b"\n")
    raw(b"\xff\xfe\x00binary\n\n\r\n")
    succeed(request_id, {})


def lines(request_id: str, data: Json) -> None:
    """Write lines as they are given; ``ID`` stands for this request's own id."""
    for line in data["lines"]:
        raw(line.replace("ID", request_id).encode() + b"\n")


def twice(request_id: str, _data: Json) -> None:
    succeed(request_id, {"answer": 1})
    succeed(request_id, {"answer": 2})


def complain(request_id: str, data: Json) -> None:
    for line in data["lines"]:
        os.write(2, line.encode() + b"\n")
    succeed(request_id, {})


def reverse(request_id: str, data: Json) -> None:
    _held.append((request_id, data))
    if len(_held) == data["count"]:
        for held_id, held in reversed(_held):
            succeed(held_id, {"value": held["value"]})
        _held.clear()


def big(request_id: str, data: Json) -> None:
    succeed(request_id, {"text": "é" * (data["bytes"] // 2)})


def report(request_id: str, data: Json) -> None:
    """Report progress and answer nothing until cancelled."""
    for step in range(1, data["reports"] + 1):
        figures = {"completed_bytes": step, "total_bytes": data["reports"]}
        send({"event": "progress", "request_id": request_id, "sequence": step, "data": figures})


def progress(request_id: str, data: Json) -> None:
    report(request_id, data)
    succeed(request_id, {})


def events(request_id: str, data: Json) -> None:
    for sequence, one in enumerate(data["events"], 1):
        send({"event": one["event"], "sequence": sequence, "data": one["data"]})
    succeed(request_id, {})


def broken_answer(request_id: str, _data: Json) -> None:
    succeed(request_id, {"uptime_ms": "not a number"})


def refuse(request_id: str, data: Json) -> None:
    fail(request_id, data["code"])


def grandchild(request_id: str, data: Json) -> None:
    """Leave a child that holds all three pipes open, and die if told to."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    succeed(request_id, {"pid": child.pid})
    if data.get("die"):
        os._exit(3)


ACTIONS: dict[str, Callable[[str, Json], None]] = {
    "worker.hello": hello,
    "worker.ping": ping,
    "worker.cancel": cancel,
    "worker.subscribe": subscribe,
    "worker.shutdown": shutdown,
    "memory.get_usage": usage,
    "memory.allocate": allocate,
    "memory.deallocate": deallocate,
    "memory.renew_lease": renew_lease,
    "memory.get_allocations": get_allocations,
    "memory.clear": clear,
    "fake.echo": succeed,
    "fake.hang": hang,
    "fake.ignore_cancel": hang,
    "fake.late_allocate": hang,
    "fake.freeze": freeze,
    "fake.exit": leave,
    "fake.die_mid_frame": die_mid_frame,
    "fake.garbage": garbage,
    "fake.lines": lines,
    "fake.subscribed": subscribed,
    "fake.twice": twice,
    "fake.complain": complain,
    "fake.reverse": reverse,
    "fake.big": big,
    "fake.progress": progress,
    "fake.hang_reporting": report,
    "fake.events": events,
    "fake.broken_answer": broken_answer,
    "fake.refuse": refuse,
    "fake.grandchild": grandchild,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--gate", type=Path, help="a FIFO: open it before anything else, and wait for its writer")
    add("--traceback", action="store_true", help="end at once with a traceback")
    add("--only-if", type=Path, help="end at once with code 7 unless this file exists")
    add("--mute", action="store_true", help="never answer anything")
    add("--stderr-bytes", type=int, default=0, help="write this much to stderr before reading anything")
    add("--stdout-junk", default="", help="write this line before reading anything")
    add("--journal", type=Path, help="append each request's action and id, with this process's id")
    add("--die-on", default="", metavar="ACTION", help="die instead of answering it …")
    add("--spared", type=int, default=0, help="… but the first so many that the journal holds …")
    add("--deaths", type=int, default=1, help="… and those after so many more")
    add("--refuse-by", default="", metavar="CODE", help="… or do not die, but refuse it by this code")
    add("--ignore-it", action="store_true", help="… or do not die, but never answer it")
    add("--stay", action="store_true", help="ignore end of input, SIGTERM and worker.shutdown")
    add("--answers", type=Path, help="a JSON object: data by action, answered instead of what it would")
    add("--events", nargs="*", default=[], help="have these events only, as an older worker …")
    add("--older-unless", type=Path, help="… unless this file exists")
    add("--play", type=Path, nargs=2, help="the two files of a golden conversation")
    add("--hang-on", default="", metavar="ACTION", help="take this action as fake.hang")
    add("--late-on", default="", metavar="ACTION", help="take this action as fake.late_allocate")
    return parser.parse_args()


def main() -> None:
    """Serve until the input ends."""
    told = options()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if told.gate:
        told.gate.open().close()
    if told.only_if and not told.only_if.exists():
        sys.exit(7)
    if told.traceback:
        message = "the fake worker was told to fail"
        raise RuntimeError(message)
    if told.stdout_junk:
        raw(told.stdout_junk.encode() + b"\n")
    for _ in range(told.stderr_bytes // 64):
        os.write(2, b"x" * 63 + b"\n")
    if told.mute:
        wait_for_ever()
    if told.stay:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ACTIONS["worker.shutdown"] = hang
    _events[:] = [] if told.older_unless and told.older_unless.exists() else told.events
    if told.answers:
        for action, data in json.loads(told.answers.read_bytes()).items():
            ACTIONS[action] = lambda request_id, _data, data=data: succeed(request_id, data)
    player = player_of(*told.play) if told.play else None
    for number, line in enumerate(sys.stdin.buffer):
        request = json.loads(line)
        if number == 0 or player is None or not player.play(request):
            serve(request, told)
    if told.stay:
        wait_for_ever()


def serve(request: Json, told: argparse.Namespace) -> None:
    request_id, action = request["request_id"], request["action"]
    if told.journal:
        with told.journal.open("a") as journal:
            journal.write(f"{action} {request_id} {os.getpid()}\n")
        if action == told.die_on and 0 < journal_count(told.journal, action) - told.spared <= told.deaths:
            if told.refuse_by:
                fail(request_id, told.refuse_by, retryable=True)
            elif not told.ignore_it:
                os.kill(os.getpid(), KILL)
            return
    if action in (told.hang_on, told.late_on):
        action = "fake.hang" if action == told.hang_on else "fake.late_allocate"
    if action in ("fake.hang", "fake.hang_reporting", "fake.ignore_cancel", "fake.late_allocate"):
        _hanging[request_id] = action
    known = ACTIONS.get(action)
    if known is None:
        fail(request_id, "unknown_action")
    elif action == "fake.echo":
        succeed(request_id, {**request["data"], "meta": request.get("meta")})
    else:
        known(request_id, request["data"])


def player_of(sent: Path, answered: Path) -> Any:
    """Return what plays a recorded conversation: in a file of its own, for the .NET package has this one alone."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is run as a file
    from tests.rigs.golden_player import Player

    return Player(sent, answered, send)


def journal_count(journal: Path, action: str) -> int:
    """Count how often an action was received, by this process and those before it."""
    return sum(line.split()[0] == action for line in journal.read_text().splitlines())


if __name__ == "__main__":
    main()
