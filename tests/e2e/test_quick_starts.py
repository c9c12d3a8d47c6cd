"""The first page's commands for somebody with Ollama and ComfyUI on one GPU, pasted; the other two are run elsewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.e2e.process import ENTRY, MIB, eventually, worker
from tests.rigs.model_servers import STAND_INS, serving
from tests.rigs.pages import Snippet, snippets

PAGE = "README.md"
PYTHON = (sys.executable, "-m", "memory_worker")


def shown(language: str, containing: str) -> Snippet:
    """Return the page's block in a language that has a text."""
    [found] = [one for one in snippets(language) if one.page == PAGE and containing in one.text]
    return found


def test_ollama_and_comfyui_on_one_gpu(tmp_path: Path) -> None:
    """Both servers are followed as declared, and the view that is attached to the broker shows what they hold.

    Only the addresses are the test's (the stand-ins'), and the device, as there may be no GPU here.
    """
    broker, top = shown("sh", "broker").text.splitlines()
    ollama, comfyui = STAND_INS["ollama"]({"llama3:8b": 40 * MIB}), STAND_INS["comfyui"]({})
    with serving(ollama) as one, serving(comfyui) as two:
        declared = shown("yaml", "comfyui").text
        for name, url in (("ollama", one), ("comfyui", two)):
            declared = re.sub(f"{{kind: {name}}}", f"{{kind: {name}, url: '{url}'}}", declared)
        (tmp_path / "servers.yaml").write_text(declared)
        words = [*shlex.split(broker.removesuffix("&"))[3:], "--simulated-device", "64MiB"]
        words = [str(tmp_path / word) if "." in word else word for word in words]
        with worker(*words, command=PYTHON) as up:
            eventually(
                lambda: "a model server answers, server comfyui" in up.stderr(), "comfyui to be followed"
            )
            eventually(
                lambda: "a model server answers, server ollama" in up.stderr(), "ollama to be followed"
            )

            def screen() -> str:
                arguments = [*shlex.split(top)[3:-1], str(tmp_path / "broker.sock"), "--once"]
                done = subprocess.run(
                    [*PYTHON, *arguments],
                    cwd=ENTRY,
                    env={**os.environ, "COLUMNS": "140"},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                return done.stdout

            eventually(lambda: "ollama/llama3:8b" in screen(), "the model in the view")
            up.terminate()
            assert up.exit_code() == 0
