"""Where stores' files are: in a folder of each user and project, by digests, so that no name is a path."""

import hashlib
from pathlib import Path

from worker.stores.base import Home, Scope

_DIGEST = 32


def folder_of(root: Path, user_id: str, project_id: str | None = None) -> Path:
    """Return where a user's files are, or those of one of their projects."""
    folder = root / _digest(user_id)
    return folder if project_id is None else folder / _digest(project_id)


def file_of(root: Path, scope: Scope, home: Home) -> Path:
    """Return where a store's file is, without its suffix."""
    kind, name = home
    return folder_of(root, *scope) / f"{kind}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
