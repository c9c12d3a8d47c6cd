"""Files that are no model, each as every format: what a load, the status and doctor say of them is a sentence that helps."""

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
from safetensors.torch import save_file

from tests.e2e.process import ROOT, eventually, worker
from tests.rigs import onnx_files
from tests.rigs.gguf_models import write_llama

WEIGHTS = {"layer.weight": torch.arange(20_000, dtype=torch.float32)}


def write_script(path: Path) -> None:
    """Write the records that torch.jit.save writes."""
    with zipfile.ZipFile(path, "w") as archive:
        for record in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(record, b"\x80\x02}.")
        archive.writestr("m/data/0", bytes(80_000))


FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "safetensors": ("safetensors", lambda path: save_file(WEIGHTS, path)),
    "torch": ("torch", lambda path: torch.save(WEIGHTS, path)),
    "legacy": ("torch", lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)),
    "script": ("torch.jit", write_script),
    "onnx": ("onnx", lambda path: path.write_bytes(onnx_files.scaling(20_000))),
    "gguf": ("gguf", write_llama),
}
"""The loader, and who writes a good file."""


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def no_utf8(path: Path) -> None:
    """Make it a folder with the file, cut short, by a name that is no UTF-8."""
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    suffix = ".safetensors" if path.suffix == ".safetensors" else path.suffix
    (path / os.fsdecode(b"m\xff" + suffix.encode())).write_bytes(content[: len(content) // 2])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1\n"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: cut(path, 0),
    "begun": lambda path: cut(path, 10),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "nearly": lambda path: cut(path, path.stat().st_size - 3),
    "pointer": lambda path: path.write_text(LFS),
    "page": lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>"),
    "text": lambda path: path.write_text("Entry not found"),
    "json": lambda path: path.write_text('{"error": "Repository not found"}'),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "noise": lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 40),
    "gz": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    "zip": zipped,
    "folder": lambda path: replaced(path, Path.mkdir),
    "fifo": lambda path: replaced(path, os.mkfifo),
    "loop": lambda path: replaced(path, lambda made: made.symlink_to(made)),
    "dangling": lambda path: replaced(path, lambda made: made.symlink_to("not-there")),
    "no_utf8": no_utf8,
    "unreadable": lambda path: path.chmod(0),
}
CASES = list(itertools.product(FORMATS, DAMAGE, ("declared", "inferred")))
ADVICE = re.compile(
    r"(: |; |, and |, or )(\w+ )?(download|unpack|convert|declare|correct|save|change|name|put|run 'git lfs pull'|use)\b"
)


def name_of(case: tuple[str, str, str]) -> str:
    return "-".join(case)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, str]]:
    """Return what is said of each file: by the status, by a load, and by doctor."""
    folder = tmp_path_factory.mktemp("models")
    rows = []
    for kind, damage in itertools.product(FORMATS, DAMAGE):
        loader, write = FORMATS[kind]
        path = folder / f"{kind}-{damage}{'.bin' if kind in {'torch', 'legacy', 'script'} else '.' + kind}"
        write(path)
        DAMAGE[damage](path)
        rows += [f"{kind}-{damage}-declared: {{path: {path.name}, loader: {loader}}}"]
        rows += [f"{kind}-{damage}-inferred: {{path: {path.name}}}"]
    yaml = folder / "models.yaml"
    yaml.write_text("models:\n" + "".join(f"  {row}\n" for row in rows))
    command = [sys.executable, "-m", "memory_worker"]
    if os.geteuid() == 0:  # to whom no file is unreadable: as one who may not
        capabilities = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", *command]
    with worker("--models", str(yaml), command=tuple(command)) as up:
        loads = {
            each: up.refused("memory.load_model", {"model_id": each})["message"]
            for each in map(name_of, CASES)
        }
    with worker("--models", str(yaml), command=tuple(command)) as up:
        status = eventually(lambda: all_reasons(up.call("memory.get_model_status")), "all reasons")
    done = subprocess.run(
        [*command, "doctor", "--models", str(yaml)], capture_output=True, text=True, cwd=ROOT / "worker" / "entry", check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    doctor = dict(re.findall(r"^model (\S+)  (.*)$", done.stdout, re.MULTILINE))
    return {each: (status[each], loads[each], doctor[each]) for each in map(name_of, CASES)}


def all_reasons(found: dict[str, Any]) -> dict[str, str] | None:
    reasons = {each["model_id"]: each["state_reason"] for each in found["models"]}
    return reasons if all(reasons.values()) else None


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_what_is_no_model_is_told_in_a_sentence(
    told: dict[str, tuple[str, str, str]], case: tuple[str, str, str]
) -> None:
    """It names the file, says what is wrong with it in words, and what to do; all three say the same."""
    name = name_of(case)
    status, load, doctor = told[name]
    path, _, said = status.partition(": ")
    assert Path(path).name.startswith("-".join(case[:2]))
    assert load == f"model {name!r} can't be loaded from {path}: {said}"
    assert doctor == f"CAN'T BE LOADED: {status}"
    assert re.match(r"(m\\xff\S+: )?(it|its|there|the|a)\b", said), said
    assert ADVICE.search(said), said
    assert "\n" not in said and "Errno" not in said and "None" not in said and "Error" not in said
    assert len(json.dumps(said)) < 400
