"""`python -m tests.rigs.dotnet build PROJECT.csproj… [--out DIR]`, `pack [--out DIR]`, or `fetch`."""

import argparse
import sys
import time
from pathlib import Path

from tests.rigs.dotnet.build import BuildError, ProjectError, ToolchainError, build, default_out
from tests.rigs.dotnet.pack import LIBRARIES, make_sdist, make_wheel, pack
from tests.rigs.dotnet.toolchain import toolchain


def main() -> int:
    """Print the assemblies; 1 with the reason on stderr where there are none."""
    parser = argparse.ArgumentParser(prog="python -m tests.rigs.dotnet")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="find or fetch the toolchain, and say where it is")
    building = commands.add_parser("build", help="build projects and all they refer to")
    building.add_argument("projects", nargs="+", type=Path)
    building.add_argument("--out", type=Path, default=None, help="default: below the toolchain's cache")
    packing = commands.add_parser(
        "pack", help="write the wheel, the sdist, and each library's .nupkg and .snupkg"
    )
    packing.add_argument("--out", type=Path, default=Path("dist"))
    options = parser.parse_args()
    start = time.monotonic()
    try:
        tools = toolchain()
        if options.command == "fetch":
            sys.stdout.write(f"{tools}\n")
            return 0
        if options.command == "pack":
            wheel = make_wheel(options.out)
            made = [wheel, make_sdist(options.out)]
            made += pack(LIBRARIES, options.out, default_out() / "pack", tools, wheel)
            sys.stdout.write("".join(f"{file}\n" for file in made))
            return 0
        for assembly in build(options.projects, options.out or default_out(), tools):
            sys.stdout.write(f"{assembly}\n")
    except (BuildError, ProjectError, ToolchainError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stderr.write(f"{time.monotonic() - start:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
