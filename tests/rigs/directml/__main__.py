"""`python -m tests.rigs.directml fetch`, or `run SCRIPT…` with the real torch_directml on a simulated device."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.rigs.directml.build import BuildError, UnavailableError, build
from tests.rigs.directml.environment import interpreter
from tests.rigs.directml.rig import Rig


def main() -> int:
    """Return the script's exit code; 1 with the reason on stderr where there is no rig."""
    parser = argparse.ArgumentParser(prog="python -m tests.rigs.directml")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="find or install torch_directml, build the runtime, say where both are")
    running = commands.add_parser("run", help="RIG_… variables that are set already hold")
    running.add_argument("arguments", nargs=argparse.REMAINDER, help="a script and its arguments")
    options = parser.parse_args()
    try:
        os.environ["MEMORY_WORKER_DIRECTML"] = "1"
        python, libraries = interpreter(), build()
    except (BuildError, UnavailableError) as reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    if options.command == "fetch":
        sys.stdout.write(f"{python}\n{libraries}\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        machine = Rig(libraries, Path(folder)).environment()
        chosen = {name: value for name, value in os.environ.items() if name.startswith("RIG_")}
        command = [str(python), *options.arguments]
        return subprocess.run(command, env={**os.environ, **machine, **chosen}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
