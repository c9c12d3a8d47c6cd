"""TorchScript programs, in a process where each warning is an error."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.e2e.process import ROOT

MAKE = "import sys, torch; torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), sys.argv[1])"
OPEN = """
import sys
from worker.backends.engines.torchscript import TorchScriptEngine
from worker.core.cancellation import CancelToken
session = TorchScriptEngine().open(sys.argv[1], {"device": "cpu", "threads": 1}, CancelToken(lambda: 0))
print(sum(each.nbytes for each in session.session.parameters()))
session.close()
"""


def test_no_warning_keeps_a_program_from_being_opened(tmp_path: Path) -> None:
    """An operator may make errors of warnings; torch warns of its own format."""

    def run(warnings: str, code: str) -> str:
        command = [sys.executable, "-W", warnings, "-c", code, str(tmp_path / "m.pt")]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    run("ignore", MAKE)
    assert run("error", OPEN) == "24\n"
