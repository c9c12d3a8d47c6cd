"""Record the golden answers anew, and show what changed: ``python -m tests.contract.record [NAME...]``.

Read every line of the difference against the contract before it is committed. ``--check`` writes nothing
and exits with 1 if an answer differs.
"""

import argparse
import difflib
import sys

from tests.contract.golden_files import Golden, goldens


def main() -> int:
    """Write, or check. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.record", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="conversations (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if any differs")
    arguments = parser.parse_args()
    known = {golden.name: golden for golden in goldens()}
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    differing = [
        name for name in arguments.names or known if _differs(known[name], write=not arguments.check)
    ]
    return 1 if arguments.check and differing else 0


def _differs(golden: Golden, *, write: bool) -> bool:
    """Run one conversation and show how its answers differ from the record."""
    answered = golden.run()
    recorded = golden.answered.read_bytes() if golden.answered.exists() else b""
    if answered == recorded:
        return False
    sys.stdout.writelines(
        difflib.unified_diff(
            recorded.decode().splitlines(keepends=True),
            answered.decode().splitlines(keepends=True),
            golden.answered.name,
            "now",
            n=0,
        )
    )
    if write:
        golden.answered.write_bytes(answered)
    return True


if __name__ == "__main__":
    sys.exit(main())
