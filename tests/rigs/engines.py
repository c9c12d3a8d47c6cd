"""A stand-in engine that takes, keeps, crashes and hangs as its params say, in a real engine process; and its loader.

Its memory is real: anonymous pages that are written to. What it holds of a device is real to ``Driver`` alone, which
lists processes as a device's driver does.
"""

import gc
import json
import mmap
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from worker.backends.engines.base import EngineError, EngineLaunch
from worker.backends.engines.host import EngineHost
from worker.core.cancellation import CancelToken
from worker.core.models import ModelSpec
from worker.loaders.model_path import resolved_file

MIB = 2**20
KEPT: list[mmap.mmap] = []
"""What stand-ins keep after they were closed, as some libraries do."""


SPARE: list[mmap.mmap] = []
"""What stand-ins took to be opened and need no more: any of them gives all of it back as it shrinks or is closed."""


def pages(size: int) -> mmap.mmap:
    """Return memory of which every page is the process's own."""
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    made = mmap.mmap(-1, size, **private)
    for at in range(0, size, mmap.PAGESIZE):
        made[at] = 1
    return made


class Driver:
    """Lists what each process holds of a device, as stand-ins write it down in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        # Mutable: what it says.
        self.lists = True
        self.says_bytes = True
        self.asked: list[tuple[int, ...]] = []

    def processes(self, device_id: str, pids: tuple[int, ...]) -> dict[int, int | None] | None:
        self.asked.append(pids)
        if not self.lists:
            return None
        there = ((int(each.name), int(each.read_text())) for each in self.folder.iterdir())
        return {pid: held if self.says_bytes else None for pid, held in there if psutil.pid_exists(pid)}


class StandInLoader:
    """Loads a file of JSON that says what is to happen when it is opened."""

    def estimate(self, spec: ModelSpec) -> int | None:
        return json.loads(Path(str(spec.path)).read_text()).get("bytes")

    def launch(self, spec: ModelSpec) -> EngineLaunch:
        path = resolved_file(spec)
        return EngineLaunch(
            engine=str(dict(spec.params).get("engine", "tests.rigs.engines:StandIn")),
            path=path,
            params=dict(spec.params),
            files=(path,),
            remedies={"no_such_library": "pip install it"},
            group=spec.engine_group,
        )

    def device_id(self, spec: ModelSpec) -> str | None:
        return dict(spec.params).get("device")


class StandIn:
    """The engine, in its process."""

    def check(self, _params: Mapping[str, Any]) -> tuple[str, ...]:
        return ()

    def open(self, path: str, params: dict[str, Any], token: CancelToken) -> "StandInSession":
        say = json.loads(Path(path).read_text())
        if "log" in say:
            with Path(say["log"]).open("a", encoding="utf-8") as log:
                print(os.getpid(), file=log)
        match say.get("opens"):
            case "crashes":
                os.abort()
            case "hangs":
                threading.Event().wait()
            case "fails":
                raise EngineError("the file is of a make that nobody knows")
            case "raises":
                raise RuntimeError("[ShapeInferenceError]\n axis 7\n")
            case "lacks memory":
                raise EngineError("insufficient memory (attempted to allocate 2048.00 MB)")
            case "waits":
                Path(say["begun"]).touch()
                wait_for(say["go"])
        return StandInSession(say) if "reopens" not in say else ReopeningSession(say)


class StandInSession:
    """A model: its own pages, those of its work, and a cache."""

    def __init__(self, say: dict[str, Any]) -> None:
        self.session = self
        self._say = say
        self._own = pages(say["bytes"])
        if "spare" in say:
            SPARE.append(pages(say["spare"]))
        self.work: list[mmap.mmap] = []
        self.device_work = 0
        self.hold(say.get("device_bytes", 0))
        self.device_work = 0
        self.kv_bytes: int | None = say.get("kv_bytes")

    def hold(self, more: int) -> None:
        """Hold more of the device, or less."""
        if "driver" in self._say:
            mine = Path(self._say["driver"]) / str(os.getpid())
            now = int(mine.read_text()) + more if mine.exists() else more
            mine.write_text(str(now))
        self.device_work += more

    def shrink(self) -> None:
        self.hold(-self.device_work)
        for each in (self.work, SPARE):
            while each:
                each.pop().close()
        self.kv_bytes = None if self.kv_bytes is None else 0

    def close(self) -> None:
        share = self._say.get("keeps", 0)
        kept = int(len(self._own) * share)
        self._own.close()
        self.hold(-int(self._say.get("device_bytes", 0) * (1 - share)) - self.device_work)
        self.device_work = 0
        if kept:
            KEPT.append(pages(kept))
        self.shrink()

    def figures(self) -> Mapping[str, int | None]:
        return {"kv_bytes": self.kv_bytes, "kv_bytes_per_token": self._say.get("kv_bytes_per_token")}


class ReopeningSession(StandInSession):
    """Keeps its work when it is to shrink, and can be opened anew; or cannot, as ``reopens`` says."""

    def shrink(self) -> None:
        pass

    def reopen(self) -> None:
        if self._say["reopens"] == "fails":
            raise EngineError("its file is gone")
        if self._say["reopens"] == "lacks":
            raise KeyError("graph")
        while self.work:
            self.work.pop().close()

    def close(self) -> None:
        if self._say.get("closes") == "fails":
            raise RuntimeError("it was not open")
        super().close()


def wait_for(path: str) -> None:
    while not Path(path).exists():
        threading.Event().wait(0.01)


# ---- what plugins do with it ----


def grow(weights: Any, data: dict[str, Any], call: Any) -> int:
    """Take working memory."""
    weights.session.work.append(pages(data["bytes"]))
    call.report(1, 1)
    return os.getpid()


def grow_there(weights: Any, data: dict[str, Any], call: Any) -> int:
    """Take working memory of the device."""
    weights.session.hold(data["bytes"])
    return os.getpid()


def crash(weights: Any, data: dict[str, Any], call: Any) -> None:
    os.abort()


def hang(weights: Any, data: dict[str, Any], call: Any) -> None:
    Path(data["begun"]).touch()
    threading.Event().wait()


def stop_late(weights: Any, data: dict[str, Any], call: Any) -> None:
    """Go on after the request is over, until told to stop."""
    Path(data["begun"]).touch()
    wait_for(data["go"])


def crash_after(weights: Any, data: dict[str, Any], call: Any) -> None:
    wait_for(data["after"])
    os.abort()


def die_of_want(weights: Any, data: dict[str, Any], call: Any) -> None:
    """End as a C++ library does that is refused memory."""
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def answer_late(weights: Any, data: dict[str, Any], call: Any) -> bytes:
    """Return what no caller waits for any more."""
    stop_late(weights, data, call)
    return bytes(data["bytes"])


def answer_in_kind(weights: Any, data: dict[str, Any], call: Any) -> Any:
    """Return what no message can hold, beside what is sent through shared memory; late, where that is asked for."""
    if "go" in data:
        stop_late(weights, data, call)
    return {"content": bytes(data.get("bytes", 0)), "kind": complex(1, 2)}


def sent(weights: Any, data: dict[str, Any], call: Any) -> int:
    """Count the results that lie in shared memory until the worker has taken them."""
    return sum(len(each.sent) for each in gc.get_objects() if isinstance(each, EngineHost))


def lack_memory(weights: Any, data: dict[str, Any], call: Any) -> None:
    raise RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")


def fail(weights: Any, data: dict[str, Any], call: Any) -> None:
    raise KeyError(data["key"])
