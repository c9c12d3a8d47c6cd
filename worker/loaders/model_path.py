"""Opening a model's file: only below the model root, and only what is really a file."""

import os
import stat
from pathlib import Path

from worker.core.models import ModelSpec
from worker.loaders.base import load_failed

_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
"""Opening a pipe must not wait for its writer; the path is resolved already; Windows must not translate."""


def confined(path: Path, root: Path) -> Path:
    """Follow all links, and return where the path leads. ValueError, in words, if that is not below ``root``.

    What does not exist yet passes: a model may arrive later.
    """
    root = root.resolve()
    try:
        real = (root / path).resolve()
    except (OSError, RuntimeError) as error:
        message = f"{path} can't be followed: {error}"
        raise ValueError(message) from error
    if real == root or not real.is_relative_to(root):
        message = f"{path} leads to {real}, which is not below the model root {root}"
        raise ValueError(message)
    return real


def resolved_file(spec: ModelSpec) -> Path:
    """Return where the model's file really lies now."""
    if spec.path is None or spec.model_root is None:
        raise load_failed(spec, "it has no path")
    try:
        return confined(spec.path, spec.model_root)
    except ValueError as error:
        raise load_failed(spec, str(error)) from error


def open_file(spec: ModelSpec) -> tuple[int, int]:
    """Open the model's file. Returns the descriptor, which the caller closes, and the size in bytes."""
    path = resolved_file(spec)
    if path.is_dir():
        raise load_failed(spec, "it is a folder; one file is wanted")
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        raise load_failed(spec, error.strerror or str(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise load_failed(spec, "it is not a regular file")
    return descriptor, status.st_size
