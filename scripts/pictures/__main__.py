"""The README's pictures, from a real run: ``python -m scripts.pictures [FOLDER]``.

A worker with a simulated device of 512 MiB is used for half a minute as an application would: models come and go,
a cache grows, leases end, memory runs out. ``top`` is drawn as it looks near the end, the report of the whole run by a
headless Chromium (through npm, fetched once). Needs ``memory-worker[top]``, ``node`` and ``npm``.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.e2e.process import MIB, Worker
from tests.rigs.model_files import write_model
from worker.tools.top.sources import RecordSource
from worker.tools.top.view import View

HERE = Path(__file__).resolve().parent
BROWSER = ("@sparticuz/chromium@^141", "puppeteer-core@^24")
BREATH_SECONDS = 0.5
"""Between two steps, so that the record has samples in between."""
MODELS = {"chat": 176, "coder": 144, "vision": 88, "embedder": 24}
"""Sizes in MiB."""


def main(folder: Path) -> None:
    """Write ``top.svg`` and ``report.png`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        record = scratch / "day.jsonl"
        with Worker(*_options(scratch, record)) as worker:
            _morning(worker)
            (folder / "top.svg").write_text(_top(record), encoding="utf-8")
            _noon(worker)
            worker.close_input()
            worker.exit_code()
        command = [sys.executable, "-m", "memory_worker", "report", str(record)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        _photograph(record.with_suffix(".html"), folder / "report.png", scratch)


def _options(scratch: Path, record: Path) -> list[str]:
    for seed, (name, size) in enumerate(MODELS.items()):
        write_model(scratch / f"{name}.safetensors", size * MIB, seed=seed)
    models = {name: {"path": f"{name}.safetensors", "device": "sim:0"} for name in MODELS}
    (scratch / "models.yaml").write_text(json.dumps({"models": models}))
    return [
        *("--simulated-device", "512MiB", "--auto-optimize", "high"),
        *("--models", str(scratch / "models.yaml"), "--record", str(record)),
    ]


def _morning(worker: Worker) -> None:
    _use(worker, "embedder", "chat", "embedder", "vision")
    _hold(worker, "kv-cache", 8, 12)
    _use(worker, "chat")
    worker.call("memory.allocate", _on("tiles", 24, lease_ms=4000))
    _use(worker, "coder", "embedder", "coder")
    _hold(worker, "kv-cache", 12, 16)
    worker.ask("memory.allocate", _on("batch", 400))


def _noon(worker: Worker) -> None:
    held = [
        row["allocation_id"]
        for row in worker.call("memory.get_allocations", {"owner": "kv-cache"})["allocations"]
    ]
    for allocation_id in held[::2]:
        worker.call("memory.deallocate", {"allocation_id": allocation_id})
        time.sleep(BREATH_SECONDS / 4)
    _use(worker, "chat", "embedder", "vision", "chat")
    worker.call("memory.set_limits", {"device_id": "sim:0", "limit_bytes": 384 * MIB})
    _use(worker, "embedder", "coder")
    worker.call("memory.clear", {"clear_type": "allocations"})
    _use(worker, "chat")


def _use(worker: Worker, *models: str) -> None:
    for model in models:
        worker.ask("memory.load_model", {"model_id": model})
        time.sleep(2 * BREATH_SECONDS)


def _hold(worker: Worker, owner: str, count: int, size: int) -> None:
    for _ in range(count):
        worker.ask("memory.allocate", _on(owner, size, make_room=True))
        time.sleep(BREATH_SECONDS)


def _on(owner: str, size: int, **more: Any) -> dict[str, Any]:
    return {"size_bytes": size * MIB, "device_id": "sim:0", "owner": owner, **more}


def _top(record: Path) -> str:
    with contextlib.chdir(record.parent):
        source = RecordSource(Path(record.name))  # is shown by its name
    console = Console(record=True, file=io.StringIO(), width=112, height=28, force_terminal=True)
    console.print(View(source.snapshot()))
    source.close()
    return _whole(console.export_svg(title="python -m memory_worker top"))


def _whole(picture: str) -> str:
    """Leave out the fonts that whoever looks at it would fetch from elsewhere: each text says its width."""
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL).replace("Fira Code", "ui-monospace")


def _photograph(page: Path, out: Path, scratch: Path) -> None:
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(scratch), *BROWSER]
    subprocess.run(install, check=True)
    script = scratch / "screenshot.mjs"  # a module finds its packages from where it lies
    script.write_text((HERE / "screenshot.mjs").read_text())
    unpacked = {**os.environ, "TMPDIR": str(scratch)}  # the browser, some 200 MB
    subprocess.run(["node", str(script), str(page), str(out.resolve())], check=True, env=unpacked)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "docs" / "pictures")
