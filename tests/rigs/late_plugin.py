"""A plugin that keeps a node of a fleet, ``node-2``, from starting until whoever made the fleet lets it."""

import os
import sys
from pathlib import Path

from worker.plugins import PluginHost


def register(host: PluginHost) -> None:
    """Wait for the end of the named pipe ``LATE_NODE``, which somebody has to open and close."""
    del host
    if any("node-2" in each for each in sys.argv):
        Path(os.environ["LATE_NODE"]).read_bytes()
