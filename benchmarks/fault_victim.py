"""The worker that ``benchmarks.faults`` makes fail: what it is asked, and what it answered, held and left."""

import itertools
import json
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import orjson

REPLY_SECONDS = 10.0


class Ended(Exception):  # noqa: N818 - the end of a worker is an outcome that is counted here, and no error
    """The worker is gone, or silent."""


class Victim:
    """A worker with the injecting plugin, two models and a simulated device."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(exist_ok=True)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as this object, whose __exit__ closes it
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "worker", "--plugin", "benchmarks.fault_injection",
                "--models", str(two_models(folder)), "--simulated-device", "64MiB", "--shared-folder", str(self.shared),
                "--record", str(folder / "record.jsonl"),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
        )  # fmt: skip
        self._numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._held = b""
        self._transfers = 1
        """The first that was not looked at."""
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.ask("worker.ping")
        self.limits = {
            each["device_id"]: self.ask("memory.set_limits", device_id=each["device_id"])["data"]["limits"]
            for each in self.ask("memory.get_status")["data"]["devices"]
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()

    def send(self, action: str, data: dict[str, Any]) -> str:
        """Write a request; returns its id."""
        request_id = f"r{next(self._numbers)}"
        request = {"request_id": request_id, "action": action, "data": data}
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(orjson.dumps(request) + b"\n")
        except OSError as error:
            raise Ended from error
        return request_id

    def reply(self, request_id: str) -> dict[str, Any]:
        """Wait for a reply. Ended where none comes."""
        end = time.monotonic() + REPLY_SECONDS
        while request_id not in self.replies:
            if not self._selector.select(max(0, end - time.monotonic())):
                raise Ended
            assert self.process.stdout is not None
            piece = self.process.stdout.read(1 << 16)
            if not piece:
                raise Ended
            *lines, self._held = (self._held + piece).split(b"\n")
            for line in lines:
                reply = orjson.loads(line)
                if "event" not in reply:
                    self.replies.setdefault(reply["request_id"], []).append(reply)
        return self.replies[request_id][0]

    def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Ask, and return the reply."""
        return self.reply(self.send(action, data))

    def disarm(self) -> dict[str, Any]:
        """Let everything work again, and return what was counted. What is armed may fail this, too."""
        while True:
            reply = self.ask("fault.off")
            if reply["success"]:
                return dict(reply["data"])

    def ledger(self) -> Any:
        """Return what the worker says it holds."""
        devices = self.ask("memory.get_usage")["data"]["devices"]
        models = self.ask("memory.get_model_status")["data"]["models"]
        return (
            [(each["device_id"], each["allocated_bytes"], each.get("external_bytes")) for each in devices],
            [(each["model_id"], each["state"] in {"loaded", "offloaded"}) for each in models],
            [each["allocation_id"] for each in self.ask("memory.get_allocations")["data"]["allocations"]],
            [self.ask("memory.set_limits", device_id=each)["data"]["limits"] for each in self.limits],
        )

    def reset(self) -> None:
        """Empty it, and make what samples name."""
        self.ask("worker.subscribe", events=[])
        for device_id, limits in self.limits.items():
            self.ask("memory.set_limits", device_id=device_id, **limits)
        self.ask("memory.clear", clear_type="all", force=True)
        self.names = {
            "allocation_id": self.ask("memory.allocate", size_bytes=16384, device_id="cpu")["data"][
                "allocation_id"
            ],
            "transfer_id": "transfer-1",
            "model_id": "m0",
        }

    def wait_for_transfers(self) -> list[str]:
        """Wait for the end of all transfers that were begun, and return what was not in order."""
        for number in itertools.count(self._transfers):
            reply = self.ask("memory.get_transfer", transfer_id=f"transfer-{number}")
            if not reply["success"]:
                self._transfers = number
                return []
            end = time.monotonic() + REPLY_SECONDS
            while reply["data"]["state"] in {"queued", "running"}:
                if time.monotonic() > end:
                    return ["unfinished"]
                reply = self.ask("memory.get_transfer", transfer_id=f"transfer-{number}")
        raise AssertionError

    def files(self) -> list[Path]:
        """Return the shared files there are, but for the one that says that it lives."""
        found = list(self.shared.iterdir())
        locks = [each for each in found if each.suffix == ".lock"]
        return [each for each in found if each not in locks[:1]]

    def last_words(self) -> str:
        """Return the end of its log."""
        self.log.seek(0)
        return self.log.read()[-300:].decode(errors="replace")

    def end(self) -> list[str]:
        """Let it end, and return what was not in order."""
        assert self.process.stdin is not None
        try:
            self.ask("memory.clear", clear_type="all", force=True)
        except Ended:
            return ["ended"]
        self.process.stdin.close()
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            return ["stuck"]
        wrong = ["exit status"] if status else []
        return [*wrong, *(["files left"] if list(self.shared.iterdir()) else [])]


def two_models(folder: Path) -> Path:
    """Write two small models, and the file that declares them."""
    rows = []
    for name in ("m0", "m1"):
        header = json.dumps({"w": {"dtype": "U8", "shape": [65536], "data_offsets": [0, 65536]}}).encode()
        header += b" " * (-len(header) % 8)
        (folder / f"{name}.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + bytes(65536)
        )
        rows.append({"id": name, "loader": "safetensors", "path": f"{name}.safetensors", "offload": True})
    path = folder / "models.yaml"
    path.write_text(json.dumps({"models": rows}))
    return path
