"""How the benchmarks of the .NET library run its programs in ``csharp_host/bench``, built for Release."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.rigs.dotnet.build import build, default_out
from tests.rigs.dotnet.toolchain import toolchain

REPOSITORY = Path(__file__).resolve().parents[1]


def figures(name: str, *arguments: object) -> dict[str, Any]:
    """Return the JSON object that a program prints. Exits with what it says on stderr where it fails."""
    tools = toolchain()
    build([REPOSITORY / "csharp_host" / "bench" / name / f"{name}.csproj"], default_out(), tools)
    command = [str(tools.launcher), str(default_out() / f"{name}.dll"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout)
    return said
