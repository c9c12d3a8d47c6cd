"""The example that writes projects, asked by a C# host that takes the memory away."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.csharp.host import REPOSITORY
from tests.e2e.csharp.page_program import run_page
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.gguf_models import write_llama


def test_the_page_s_host_is_served_by_all_three_strategies(toolchain: Toolchain, tmp_path: Path) -> None:
    """The C# in docs/generation.md, as it stands: each time it takes memory the next strategy answers, in one session."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is the extra gguf")
    folder = tmp_path / "host"
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    (folder / "models").mkdir()
    write_llama(folder / "models" / "m.gguf", context=4096)
    (folder / "models" / "models.yaml").write_text(
        "models: {generator: {path: m.gguf, declared_bytes: 256MiB, params: {n_ctx: 2048, threads: 1}}}"
    )
    done = run_page("generation.md", "Generates", toolchain, tmp_path, str(folder))
    assert done.returncode == 0, done.stderr
    full, templates, minimal = done.stdout.splitlines()
    assert full.startswith("full: 10 files, turn 1: generator, ")
    assert templates.startswith("templates: 11 files, turn 2: full needs ")
    assert templates.endswith(" available: templates take 8,388,608 bytes")
    assert minimal.startswith("minimal: 3 files, turn 3: full needs ")
    assert "; templates needs 8,388,608 bytes, " in minimal
    assert minimal.endswith(" available: minimal takes 0 bytes")
