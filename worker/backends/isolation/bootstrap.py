"""Start of a device's process, under whatever interpreter has the device's libraries.

Run as a script, by path. That interpreter has none of the worker's own dependencies: only the packages named
on the command line can be imported from the worker's installation, and nothing else that lies beside them.
It has to be understood by Python 3.8, to say that this is too old.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Sequence  # noqa: UP035 - see above

_NEEDED = (3, 11)


class Lent:
    """Finds top-level packages in the folders that are named, and nothing else there."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def lends(self, folders: dict[str, str]) -> bool:
        """Tell whether it has all of these."""
        return folders.items() <= self._folders.items()

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the import system gives it to every finder
        target: ModuleType | None = None,  # noqa: ARG002 - the import system gives it to every finder
    ) -> ModuleSpec | None:
        """Return where a package is; None for all that is not lent."""
        folder = self._folders.get(name)
        return None if folder is None else PathFinder.find_spec(name, [folder])


def lend(folders: dict[str, str]) -> None:
    """Make top-level packages importable from where the worker has them, after all that this interpreter has."""
    if not any(isinstance(each, Lent) and each.lends(folders) for each in sys.meta_path):
        sys.meta_path.append(Lent(folders))


def claim_descriptors() -> tuple[int, int]:
    """Move the two pipes out of everyone's reach: what prints, prints on stderr."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return read_fd, write_fd


def main() -> None:
    """Take the command line over, and serve until the worker is done or gone."""
    read_fd, write_fd = claim_descriptors()
    # The script's own folder is no place to import from.
    own_folder = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - pathlib is 5 ms of a start
    if sys.path and os.path.realpath(sys.path[0]) == own_folder:
        del sys.path[0]
    if sys.version_info < _NEEDED:
        found = sys.version.split()[0]
        sys.exit(f"a device's process needs Python 3.11 or newer; {sys.executable} is {found}")
    setup = json.loads(sys.argv[1])
    sys.meta_path.insert(0, Lent(setup["own"]))
    lend(setup["lent"])
    from worker.backends.device_process import serve  # noqa: PLC0415 - can be found from here on

    serve(setup, read_fd, write_fd, lend)


if __name__ == "__main__":
    main()
