"""Modules that the operator names: the only ones that may lie in the folder in which the worker was started."""

import importlib
import os
import sys
from types import ModuleType


def import_operators(name: str) -> ModuleType:
    """Import a module that an option or a file of the operator's names. Errors: those of importing it.

    The current folder is looked into last, so that a file of a library's name there is not taken for the library.
    """
    try:
        folder = os.getcwd()  # noqa: PTH109 - as sys.path has it
    except OSError:  # it was removed
        folder = None
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
