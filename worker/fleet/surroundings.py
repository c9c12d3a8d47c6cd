"""What Ray is to find when it is imported: it reads its settings then, and so do the processes that it starts."""

import os
import secrets
from pathlib import Path

import memory_worker


def prepare(*, alone: bool) -> None:
    """Set what is not set. A cluster that is ``alone`` on this machine lets in who has a token that no one else can read."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    # Of a cancelled transfer's pieces; others are logged (``links.unwaited``).
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Nodes ask for no GPU, and use all there are.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # what is late starts no other Ray
    os.environ.setdefault(
        "RAY_COLOR_PREFIX", "0"
    )  # what it says becomes lines of the log, which are for programs too
    if not alone:
        return
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    entry = str(Path(memory_worker.__file__).parents[1])
    paths = [entry, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
