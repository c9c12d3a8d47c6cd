"""A network share of one's own (FUSE, as sshfs is), whose answers are held back for as long as a test pleases.

What waits for one of them waits in the kernel, as it does for a server that is gone: a read that was asked for ahead
ends when its process is killed, anything else not even then.
"""

import ctypes
import enum
import errno
import os
import select
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_MNT_DETACH = 2
_LONGEST_REQUEST_BYTES = 2**17
_ROOT = 1


class _Op(enum.IntEnum):
    """What the kernel asks: linux/fuse.h."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42


_HEADER = struct.Struct("<IIQQIIIHH")
"""Of a request: its length, what is asked, its number, of which node, by which user, group and thread."""
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_KEEP_CACHE = 2


class StalledShare:
    """The files of a folder, as they were when it was mounted."""

    def __init__(self, mount: Path, files: dict[str, bytes]) -> None:
        self.path = mount
        self._names = {name.encode(): node for node, name in enumerate(files, _ROOT + 1)}
        self._contents = dict(enumerate(files.values(), _ROOT + 1))
        self._changed = threading.Condition()
        # All mutable state: which requests are held back, of which process, and those that are.
        self._stalls: frozenset[int] = frozenset()
        self._stalled_process: int | None = None
        self._held: list[tuple[int, int, int, bytes]] = []
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._closing, self._close = os.pipe()
        self._serving = threading.Thread(target=self._serve, daemon=True)

    def mount(self) -> None:
        """Mount it. OSError where this user may not."""
        libc, owner = ctypes.CDLL(None, use_errno=True), f"user_id={os.getuid()},group_id={os.getgid()}"
        options = f"fd={self._fd},rootmode={stat.S_IFDIR:o},{owner},allow_other"
        if libc.mount(b"share", os.fsencode(self.path), b"fuse.sshfs", 0, options.encode()):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._serving.start()

    def stall(self, *, opening: bool = False, of: int | None = None) -> None:
        """Answer no read from now on, or nothing that is asked to open a file; of one process, or of any."""
        with self._changed:
            self._stalls = frozenset({_Op.OPEN, _Op.LOOKUP, _Op.GETATTR} if opening else {_Op.READ})
            self._stalled_process = of

    def wait_until_asked(self, seconds: float = 30) -> None:
        """Wait until something waits for an answer that is held back."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held, seconds)

    def answer(self) -> None:
        """Answer what was held back, and everything from now on."""
        with self._changed:
            self._stalls, held, self._held = frozenset(), self._held, []
        for each in held:
            self._answer(*each)

    def close(self) -> None:
        """Unmount, and have everything that waits fail: it does so once no descriptor is left, and no thread reads."""
        ctypes.CDLL(None).umount2(os.fsencode(self.path), _MNT_DETACH)
        os.close(self._close)
        if self._serving.ident is not None:
            self._serving.join()
        os.close(self._fd)
        os.close(self._closing)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while self._closing not in dict(poll.poll()):
            try:
                request = os.read(self._fd, _LONGEST_REQUEST_BYTES)
            except OSError:  # it was withdrawn
                continue
            _, asked, number, node, _, _, thread, *_ = _HEADER.unpack_from(request)
            rest = request[_HEADER.size :]
            with self._changed:
                of = self._stalled_process
                stalls = asked in self._stalls and (of is None or Path(f"/proc/{of}/task/{thread}").exists())
                if stalls:
                    self._held.append((asked, number, node, rest))
                    self._changed.notify_all()
            if not stalls:
                self._answer(asked, number, node, rest)

    def _answer(self, asked: int, number: int, node: int, rest: bytes) -> None:
        if asked in {_Op.FORGET, _Op.BATCH_FORGET, _Op.INTERRUPT}:
            return
        said = self._said(asked, node, rest)
        code, body = (
            (-errno.ENOENT if asked == _Op.LOOKUP else -errno.ENOSYS, b"") if said is None else (0, said)
        )
        with suppress(FileNotFoundError):  # whoever asked is gone
            os.write(self._fd, struct.pack("<IiQ", 16 + len(body), code, number) + body)

    def _said(self, asked: int, node: int, rest: bytes) -> bytes | None:
        """Return what is answered; None for no such file, or for what nobody needs here."""
        said: bytes | None = None
        match asked:
            case _Op.INIT:
                ahead = struct.unpack_from("<III", rest)[2]
                said = struct.pack("<IIIIHHIIHH32x", 7, 31, ahead, 1, 16, 12, 2**16, 1, 0, 0)
            case _Op.LOOKUP:
                found = self._names.get(rest.rstrip(b"\0"))
                if found is not None:
                    said = struct.pack("<QQQQII", found, 0, 0, 0, 0, 0) + self._attributes(found)
            case _Op.GETATTR:
                said = struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case _Op.OPEN | _Op.OPENDIR:
                said = struct.pack("<QII", node, _KEEP_CACHE, 0)
            case _Op.READ:
                _, offset, length = struct.unpack_from("<QQI", rest)
                said = self._contents[node][offset : offset + length]
            case _Op.STATFS:
                said = bytes(80)
            case _Op.FLUSH | _Op.RELEASE | _Op.RELEASEDIR | _Op.READDIR:
                said = b""
        return said

    def _attributes(self, node: int) -> bytes:
        size = len(self._contents.get(node, b""))
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        who = os.getuid(), os.getgid()
        return _ATTRIBUTES.pack(node, size, -(-size // 512), 1, 1, 1, 0, 0, 0, mode, 1, *who, 0, 4096, 0)


@contextmanager
def stalled_share(mount: Path, files: dict[str, bytes]) -> Iterator[StalledShare]:
    """Mount files at an empty folder. Skips where this user may not."""
    if sys.platform != "linux":
        pytest.skip("file systems of one's own are Linux's")
    mount.mkdir(exist_ok=True)
    try:
        share = StalledShare(mount, files)
    except OSError as error:
        pytest.skip(f"there are no file systems of one's own here: {error}")
    try:
        try:
            share.mount()
        except OSError as error:
            pytest.skip(f"this user may not mount a file system of its own: {error}")
        yield share
    finally:
        share.close()
