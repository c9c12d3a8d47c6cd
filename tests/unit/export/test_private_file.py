"""Files for watchers: nobody else reads them, writes them, or chooses which file they are."""

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.core.records import Decision, DecisionKind
from worker.export.decision_log import DecisionLog
from worker.export.metrics_file import MetricsFile
from worker.export.private_file import Sink

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and pipes as POSIX has them")
TEXT = "# HELP memory_worker_info\n# EOF\n"
USE = Decision(DecisionKind.USE, "m", "cpu", 1, 1000, 20, 5000, None)


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have files made by default for all, for their owner, and for nobody."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def metrics(path: Path, mode: int = 0o600) -> MetricsFile:
    return MetricsFile(path, lambda: TEXT, 3600, mode)


@posix
def test_modes(umask: None, tmp_path: Path) -> None:
    """Files are private whatever the umask, also the second of a record; a collector's may be read as was said."""
    log = DecisionLog(tmp_path / "r", max_bytes=100)
    for _ in range(10):
        log.record(USE)
    log.close()
    assert (mode(tmp_path / "r"), mode(tmp_path / "r.1")) == (0o600, 0o600)
    for wanted in (0o600, 0o644):
        written = metrics(tmp_path / "m", wanted)
        written.start()
        assert mode(tmp_path / "m") == wanted
        written.close()
        assert not (tmp_path / "m").exists()


@posix
def test_what_is_there_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    """Whoever has the file open that was there, or could open it, sees nothing of the new one."""
    path = tmp_path / "r"
    before = DecisionLog(path, about={"before": True})
    before.record(USE)
    before.close()
    path.chmod(0o666)
    with path.open() as reader:
        log = DecisionLog(path)
        log.record(USE)
        log.close()
        assert '"before":true' in reader.read()
    assert b"before" not in path.read_bytes()
    assert mode(path) == 0o600
    assert b"use" in path.read_bytes()


@pytest.mark.parametrize("content", [b"models:\n", b'{"models":{"a":{}}}', b"# EOF\n", b"GGUF\3\0\0\0"])
@pytest.mark.parametrize("name", ["x", "x.1"])
def test_a_file_of_somebodys_is_not_replaced(tmp_path: Path, content: bytes, name: str) -> None:
    """An option that names models.yaml, or weights, by mistake costs nobody the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match="no worker wrote it"):
        DecisionLog(tmp_path / "x")
    with pytest.raises(OSError, match="no worker wrote it"):
        metrics(tmp_path / name).start()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [(name, content)]


@pytest.mark.parametrize("content", [b"", b'{"capacity_by', bytes(100)])
def test_what_a_worker_left_half_done_is_replaced(tmp_path: Path, content: bytes) -> None:
    """A worker that was killed, a full disk or a power failure keeps the next one from nothing."""
    (tmp_path / "x").write_bytes(content)
    log = DecisionLog(tmp_path / "x")
    log.record(USE)
    log.close()
    assert b"use" in (tmp_path / "x").read_bytes()


@posix
def test_one_file_under_two_options(tmp_path: Path) -> None:
    """The record keeps its file, also while nothing is written yet."""
    log = DecisionLog(tmp_path / "x")
    with pytest.raises(OSError, match="another option"):
        metrics(tmp_path / "x").start()
    log.record(USE)
    log.close()
    assert b"use" in (tmp_path / "x").read_bytes()


@posix
def test_links_are_not_followed(tmp_path: Path) -> None:
    """Who may put a link there does not choose which file is overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("r", "m", ".n.next"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(OSError, match="link"):
        DecisionLog(tmp_path / "r")
    with pytest.raises(OSError, match="is no file"):
        metrics(tmp_path / "m").start()
    written = metrics(tmp_path / "n")
    written.start()
    assert (tmp_path / "n").read_text() == TEXT
    written.close()
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "r", "victim"]


@posix
def test_two_workers_on_one_file(tmp_path: Path) -> None:
    """The second is refused and ruins nothing; once the first ended, another may."""
    log, figures = DecisionLog(tmp_path / "r"), metrics(tmp_path / "m")
    figures.start()
    log.record(USE)
    with pytest.raises(OSError, match="another worker, or"):
        DecisionLog(tmp_path / "r")
    with pytest.raises(OSError, match="another worker, or"):
        metrics(tmp_path / "m").start()
    assert (tmp_path / "m").read_text() == TEXT
    log.close()
    figures.close()
    assert b"use" in (tmp_path / "r").read_bytes()
    DecisionLog(tmp_path / "r").close()
    (tmp_path / ".m.lock").touch()  # as a killed worker leaves it
    again = metrics(tmp_path / "m")
    again.start()
    again.close()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@posix
def test_a_pipe_without_a_reader(tmp_path: Path) -> None:
    """Opening it would wait for a reader for ever: it is refused."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="without a reader"):
        DecisionLog(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        metrics(tmp_path / "pipe").start()


@posix
def test_a_pipe_whose_reader_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decides never waits for it, what waits is bounded, and the end comes all the same."""
    monkeypatch.setattr("worker.export.decision_log._END_SECONDS", 0.1)
    monkeypatch.setattr("worker.export.decision_log._MAX_WAITING", 500)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = DecisionLog(path)
    for _ in range(20_000):  # far more than the pipe holds
        log.record(USE)
    assert log._queue.qsize() <= 500
    log.close()
    assert log._over.is_set()
    os.close(reader)


@posix
def test_a_pipe_that_is_read(tmp_path: Path) -> None:
    """What is written arrives whole, also where it is more than a pipe holds."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink, got = Sink(path, b""), bytearray()
    os.set_blocking(reader, True)
    sent = os.urandom(1_000_000)

    def read() -> None:
        while chunk := os.read(reader, 1 << 16):
            got.extend(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    sink.write(sent, lambda: False)
    sink.close()
    thread.join()
    os.close(reader)
    assert got == sent
    assert not sink.is_file
