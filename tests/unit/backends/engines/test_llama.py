"""What llama.cpp says of a file on stderr, as its session gathers it."""

import gc
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

pytest.importorskip("xllamacpp")

from worker.backends.engines.llama import _complaints


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are counted where the system has them")
def test_no_descriptor_is_kept_where_there_is_no_place_for_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that loads again and again with a full or missing folder for temporary files would have none left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    gc.collect()  # what earlier tests left behind must not be closed in between
    before = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError), _complaints([]):
        raise AssertionError
    assert psutil.Process().num_fds() == before
