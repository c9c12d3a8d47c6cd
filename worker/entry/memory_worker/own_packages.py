"""Which Python this is, and whose packages ``worker`` and ``protocol`` are, before any of them is imported.

Both names are ones that a host may have packages of. It has to be understood by Python 3.6, to say that this is too
old.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NEEDED = (3, 11)
_OWN = ("worker", "protocol")
_HERE = os.path.dirname(os.path.realpath(__file__))
_BESIDE = os.path.dirname(_HERE)
_PLACE = (
    _BESIDE if os.path.isdir(os.path.join(_BESIDE, "worker")) else os.path.dirname(os.path.dirname(_BESIDE))
)
"""Where the packages lie: beside this one where they are installed, above it in a checkout."""


class _OwnPackages:
    """Finds this project's packages where it lies, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> "ModuleSpec | None":  # noqa: ARG004 - the import system gives them to every finder
        return PathFinder.find_spec(name, [_PLACE]) if name in _OWN else None


def prepare() -> None:
    """Check the interpreter, and put this project's own packages first. Exits with 2, and says why, where it can't."""
    if sys.version_info < _NEEDED:
        found = sys.version.split()[0]
        _fail(
            "it needs Python 3.11 or newer, and {} is {}: start it with another".format(sys.executable, found)
        )
    for name in _OWN:
        if not os.path.isdir(os.path.join(_PLACE, name)):
            _fail("its package {!r} is not in {} any more: install it anew".format(name, _PLACE))
        loaded = sys.modules.get(name)
        if loaded is not None and not _lies_here(loaded, name):
            _fail(
                "another {!r} was imported before its own: {}. Rename that, or keep the interpreter from importing"
                " it at its start (sitecustomize, PYTHONSTARTUP, a .pth file)".format(name, _file_of(loaded))
            )
    sys.meta_path.insert(0, _OwnPackages)
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", _current_folder()):
        del sys.path[0]


def _lies_here(module: ModuleType, name: str) -> bool:
    return os.path.realpath(_file_of(module)).startswith(os.path.join(_PLACE, name))


def _file_of(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "?"))


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _fail(message: str) -> None:
    sys.stderr.write("memory-worker: error: {}\n".format(message))
    raise SystemExit(2)
