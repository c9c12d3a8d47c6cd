"""Start of a device's process, under whatever interpreter has the device's libraries.

Run as a script, by path. That interpreter has none of the worker's own dependencies: only the packages named
on the command line can be imported from the worker's installation, and nothing else that lies beside them.
Until the version is known to be new enough this is Python 3.8.
"""

import json
import os
import sys
from importlib.machinery import PathFinder

NEEDED = (3, 11)


class Lent:
    """Finds top-level packages in the folders that are named, and nothing else there."""

    def __init__(self, folders):  # type: ignore[no-untyped-def]  # noqa: ANN001 - see above
        self._folders = folders

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG002
        """Return where a package is; None for all that is not lent."""
        folder = self._folders.get(name)
        return None if folder is None else PathFinder.find_spec(name, [folder])


def claim_descriptors():  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Move the two pipes out of everyone's reach: what prints, prints on stderr."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return read_fd, write_fd


def main():  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Take the command line over, and serve until the worker is done or gone."""
    read_fd, write_fd = claim_descriptors()
    # The script's own folder is no place to import from.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]
    if sys.version_info < NEEDED:
        sys.exit("the device's process needs Python %d.%d or newer; %s is %s" % (*NEEDED, sys.executable, sys.version.split()[0]))  # noqa: UP031
    setup = json.loads(sys.argv[1])
    sys.meta_path.insert(0, Lent(setup["own"]))  # type: ignore[no-untyped-call]
    sys.meta_path.append(Lent(setup["lent"]))  # type: ignore[no-untyped-call]
    from worker.backends.device_process import serve  # noqa: PLC0415 - findable from here on

    serve(setup, read_fd, write_fd)


if __name__ == "__main__":
    main()
