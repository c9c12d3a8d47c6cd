"""Memory that two processes were to see, where the system has none: nothing of the attempt stays."""

import errno
import gc
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from worker.backends.engines.arrays import Segment
from worker.backends.isolation.slots import Slots


@pytest.mark.skipif(sys.platform == "win32", reason="there it has neither a descriptor nor a file")
@pytest.mark.parametrize(
    "make",
    [partial(Segment.create, 4096), Slots.create, partial(Slots.create, as_file=True)],
    ids=["arrays", "slots", "slots as a file"],
)
def test_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]) -> None:
    """Neither a descriptor, of which there are few where memory is short, nor a file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    gc.collect()  # what earlier tests left behind must not be closed in between
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", refused)
        before = os.dup(0)
        os.close(before)
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
            make()
    after = os.dup(0)
    os.close(after)
    assert after == before, "the lowest that is free is free yet"
    assert list(tmp_path.iterdir()) == []
