"""The Python that the pages show is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import ROOT

PAGES = [ROOT / "docs" / "python-client.md"]
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_runs(text: str, tmp_path: Path) -> None:
    """Pasted into a file and run, it exits with 0 and writes nothing to stderr."""
    script = tmp_path / "snippet.py"
    script.write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
