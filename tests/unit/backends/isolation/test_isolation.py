"""The parts of a device's process: messages, slots, endings, and how values cross over."""

import json
import math
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

if sys.platform != "win32":
    import fcntl
    import termios

from protocol.results import Fragmentation, SharedMemory
from protocol.vocabulary import (
    DeviceKind,
    DeviceState,
    Executed,
    Initialize,
    MemoryType,
    SharedMemoryKind,
    Source,
)
from tests.e2e.process import eventually
from tests.unit.isolation import RIGS, NoDelay, isolated, never
from worker.backends.isolation import codec, frames
from worker.backends.isolation.answers import Answers
from worker.backends.isolation.bootstrap import Lent
from worker.backends.isolation.endings import Ending
from worker.backends.isolation.frames import BrokenFrameError, FramePipe, any_values_line
from worker.backends.isolation.slots import SLOT_BYTES, SLOTS, Slots
from worker.core import errors
from worker.core.exit_codes import ending
from worker.core.records import AllocationRequest, Block, Defragmented, DeviceInfo, Readings


@pytest.fixture
def pipe() -> object:
    """Return a pipe's two ends, as one that talks to itself."""
    made = FramePipe(*os.pipe())
    yield made
    made.close()


def test_messages(pipe: FramePipe) -> None:
    """What is sent is received, in order, whatever its length; the end is the end."""
    sent = [[n, "ä\n" * (n * 1000)] for n in range(20)]
    thread = threading.Thread(target=lambda: [*map(pipe.send, sent), pipe.close_output()])
    thread.start()
    assert [pipe.receive() for _ in sent] == sent
    assert pipe.receive() is None
    thread.join()
    with pytest.raises(OSError, match="descriptor"):
        pipe.send([])


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", b"nope\n", b"{}\n", b"[\xff\xff]\n", b"[1,\n", b"[" * 20_000 + b"\n"]
)
def test_noise_on_the_pipe(noise: bytes) -> None:
    """What is no message is not taken for one."""
    read_fd, write_fd = os.pipe()
    pipe = FramePipe(read_fd, write_fd)
    os.write(write_fd, noise)
    with pytest.raises(BrokenFrameError):
        pipe.receive()
    pipe.close()


@pytest.mark.parametrize("with_orjson", [True, False])
def test_any_value_crosses_over(
    monkeypatch: pytest.MonkeyPatch, pipe: FramePipe, *, with_orjson: bool
) -> None:
    """Numbers that are none, halves of characters and large numbers arrive, whichever library writes and reads."""
    if not with_orjson:
        monkeypatch.setattr(frames, "dumps", lambda message, *_: frames.any_values_line(message))
        monkeypatch.setattr(frames, "loads", json.loads)
    pipe.send([1, "names", ["\udcff", 2**64 - 1, None, True, ("a", 0.5)], 10**18])
    assert pipe.receive() == [1, "names", ["\udcff", 2**64 - 1, None, True, ["a", 0.5]], 10**18]
    pipe.write(any_values_line([2, [math.inf, -math.inf, 2**70]]))
    assert pipe.receive() == [2, [math.inf, -math.inf, 2**70]]
    pipe.write(any_values_line([3, [math.nan]]))
    assert math.isnan(pipe.receive()[1][0])


@pytest.mark.parametrize("cut", [b"", b"[1", b"[1,2", b'["a\\"]'])
def test_cut_short(cut: bytes) -> None:
    """A message that is cut short, because who sent it died, is the end."""
    read_fd, write_fd = os.pipe()
    pipe = FramePipe(read_fd, write_fd)
    os.write(write_fd, cut)
    pipe.close_output()
    assert pipe.receive() is None
    pipe.close()


def test_pieces_of_messages(pipe: FramePipe) -> None:
    """However the bytes come, each message is received once: also where what was read ends before the end of a line."""
    sent = [[n, "x" * n] for n in range(980, 1060)]  # some end where a read does
    text = b"".join(map(frames.line, sent))
    for size in (1, 7, 1024, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        writing = threading.Thread(
            target=lambda pieces=pieces: [os.write(pipe._write_fd, each) for each in pieces]
        )
        writing.start()
        assert [pipe.receive() for _ in sent] == sent
        writing.join()
    pipe.write(b"[1,2]")
    assert pipe.receive() == [1, 2]
    for more in (b"\n", b"[3", b"]\n[4]\n"):
        pipe.write(more)
    assert (pipe.exchange(b"[5]\n"), pipe.receive(), pipe.receive()) == ([3], [4], [5])


@pytest.mark.parametrize("as_file", [False, True])
def test_slots(*, as_file: bool) -> None:
    """Both ends see the same bytes, and nothing is left of them."""
    ours = Slots.create(as_file=as_file)
    theirs = Slots.open(ours.place if as_file else {"fd": ours.inherited[0]})
    taken = [ours.take(wait_s=30) for _ in range(SLOTS)]
    assert sorted(taken) == list(range(SLOTS))
    assert ours.take(wait_s=0) is None
    for slot in taken:
        ours.view(slot, 3)[:] = bytes([slot, 1, 2])
    assert [bytes(theirs.view(slot, 3)) for slot in taken] == [bytes([slot, 1, 2]) for slot in taken]
    for slot, length in ((-1, 1), (SLOTS, 1), (0, -1), (0, SLOT_BYTES + 1)):
        with pytest.raises(ValueError, match=str(slot)):
            ours.view(slot, length)
    path = Path(ours.place.get("path", "/nowhere"))
    assert path.exists() is as_file
    for each in (theirs, ours):
        each.close()
    assert not path.exists()


def test_slots_are_waited_for() -> None:
    """Who waits gets the next slot that is given back."""
    slots = Slots.create()
    taken = [slots.take(wait_s=30) for _ in range(SLOTS)]
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(slots.take(wait_s=30)))
    thread.start()
    slots.give_back(taken[3])
    thread.join(30)
    assert got == [taken[3]]
    slots.close()


@pytest.mark.parametrize(
    ("code", "windows", "said"),
    [
        (0, False, "ended with exit code 0"),
        (-11, False, "died of SIGSEGV (segmentation fault)"),
        (-9, False, "died of SIGKILL (killed: by the system where memory runs out, or from outside)"),
        (-250, False, "died of signal 250"),
        (3, True, "ended with exit code 3, as abort() does"),
        (7, True, "ended with exit code 7"),
        (3221225477, True, "died of access violation (0xC0000005)"),
        (3221225477 - 2**32, True, "died of access violation (0xC0000005)"),
        (3221226505, True, "died of abort, or a stack buffer overrun (0xC0000409)"),
        (0xC0FFEE00, True, "died of an exception (0xC0FFEE00)"),
    ],
)
def test_endings(code: int, *, windows: bool, said: str) -> None:
    """Exit codes are named in words, NTSTATUS codes signed or not."""
    assert ending(code, windows=windows) == said


def test_records_cross_over() -> None:
    """What is packed comes out the same, words as words; what a request is for stays with the ledger."""
    request = AllocationRequest("d", 5, MemoryType.PINNED, Initialize.NONE, 16, overwritten=True)
    ours = codec.packed_request(replace(request, purpose="p", owner="o", persistent=True, lease_ns=3))
    assert codec.request_of(json.loads(json.dumps(ours))) == request
    for each in (request, AllocationRequest("d", 5)):
        assert codec.request_of(json.loads(json.dumps(codec.packed_request(each)))) == each
    readings = Readings(1, 2, Source.DXGI, 3, None, 4, 5, 6, 7, Fragmentation(1, 2, 0.5), 8)
    assert codec.readings_in(codec.readings_text(readings)) == readings
    bare = Readings(None, None, None, None, None, None, None, 0, 0, None)
    assert codec.readings_in(codec.readings_text(bare)) == bare
    infos = (DeviceInfo("d", DeviceKind.CUDA, "n", DeviceState.LOST, "why"),)
    assert codec.infos_of(codec.packed(infos)) == infos
    for block in (Block(3), Block(3, SharedMemory("/p", 3, SharedMemoryKind.FILE))):
        assert codec.block_of(codec.packed_block(block)) == block
    assert codec.defragmented_of(codec.packed(Defragmented(1, None))) == Defragmented(1, None)
    assert codec.defragmented_of(None) is None


@pytest.mark.parametrize("kind", [errors.OutOfMemoryError, errors.DeviceLostError, errors.CancelledError])
def test_errors_cross_over(kind: type[errors.WorkerError]) -> None:
    """Errors with a wire code keep class, message, details and what became of the call."""
    error = kind("said", device_id="d", requested_bytes=2**62)
    error.executed = Executed.YES
    found = codec.error_of(codec.packed_error(error))
    assert type(found) is kind
    assert (str(found), vars(found)) == ("said", vars(error))


def test_other_errors_cross_over() -> None:
    """Others keep their type's name and their message; a KeyError is one on both sides."""
    assert isinstance(codec.error_of(codec.packed_error(KeyError("x"))), KeyError)
    found = codec.error_of(codec.packed_error(ModuleNotFoundError("No module named 'm.n'", name="m.n")))
    assert isinstance(found, codec.RemoteError)
    assert (str(found), found.module) == ("ModuleNotFoundError: No module named 'm.n'", "m.n")


def test_lent_packages(tmp_path: Path) -> None:
    """A finder shows what it was told to show, not what lies beside it."""
    for name in ("shown", "beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    finder = Lent({"shown": str(tmp_path)})
    spec = finder.find_spec("shown")
    assert spec is not None and spec.origin == str(tmp_path / "shown" / "__init__.py")
    assert finder.find_spec("beside") is None
    assert finder.find_spec("shown.part") is None


def test_whatever_fails_while_a_process_is_started_is_told_and_the_next_is_started(monkeypatch):
    """The thread that starts processes, with which they would end, goes on after a bug; who waits for it is told."""
    with isolated() as backend:
        backend.probe()
        launching = backend._launching
        start = launching._start

        def broken():
            monkeypatch.setattr(launching, "_start", start)
            raise ZeroDivisionError

        def fail():
            raise ZeroDivisionError

        monkeypatch.setattr(launching, "_start", broken)
        with pytest.raises(ZeroDivisionError):
            launching.replace(1)
        launching.do(fail)
        child, found = launching.replace(1)
        assert [each.device_id for each in found] == ["sim:0"]
        child.stop()
        assert backend.readings("sim:0").free_bytes is not None


def test_an_end_answers_every_call_whatever_becomes_of_one(pipe: FramePipe) -> None:
    """What is told of one may fail, with any error; the others' callers wait no longer either."""
    answers = Answers(pipe, lambda: None, lambda _: None)
    told: list[str] = []

    def fails() -> None:
        raise KeyError("slot")

    calls = [answers.begin("free", ("a",)) for _ in range(3)]
    for call, on_answer in zip(
        calls, (lambda: told.append("first"), fails, lambda: told.append("last")), strict=True
    ):
        assert not answers.abandon(call, on_answer=on_answer)
    pipe.close_output()
    end = Ending("it ended", ran_out=False)
    with pytest.raises(KeyError, match="slot"):
        answers.end(end)
    assert [each.answer for each in calls] == [end] * 3
    assert sorted(told) == ["first", "last"]


def test_a_call_that_no_message_can_hold_is_none(pipe: FramePipe) -> None:
    """Its caller hears so at once, and nothing of it is left to wait for an answer."""
    answers = Answers(pipe, lambda: None, lambda _: None)
    with pytest.raises(TypeError, match="complex"):
        answers.begin("work", (complex(1, 2),))
    with pytest.raises(TypeError, match="complex"):
        answers.call("work", (complex(1, 2),))
    assert answers.reader.calls == {}
    assert answers.reader.right


def test_a_first_process_that_is_slow_is_given_more_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its device is unavailable for no longer than the machine is busy; who needs it is not kept waiting."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    told: SimpleQueue[DeviceInfo] = SimpleQueue()
    busy = tmp_path / "busy"
    busy.touch()
    with isolated("misbehaving_backends:TakesLong", path=str(busy)) as backend:
        launching = backend._launching
        start, given = launching._start, list[float]()

        def slow_at_first(patience_s: float = 0.0) -> object:
            given.append(patience_s)
            if patience_s:
                busy.unlink()
            return start(patience_s)

        monkeypatch.setattr(launching, "_start", slow_at_first)
        backend.begin(lambda devices: told.put(devices[0]))
        slow, there = told.get(timeout=60), told.get(timeout=60)
        assert slow.state is DeviceState.UNAVAILABLE
        assert slow.state_reason is not None
        assert slow.state_reason.endswith(
            "did not answer 'start' within 0 s and was killed; it is given 300 s now"
        )
        assert there.state is DeviceState.AVAILABLE
        assert given == [0, 300]
        backend.allocate("a", AllocationRequest("sim:0", 4096), never())


def test_threads_that_are_short_fail_a_call_and_not_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a thread is refused, retryable; the device goes on, and its figures are as recent as ever."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    with isolated("misbehaving_backends:HasNoThreads") as backend:
        backend.probe()
        pid = backend.pid
        for _ in range(2):
            with pytest.raises(errors.OutOfMemoryError, match="starts no more threads"):
                backend.trim("sim:0")
        backend.allocate("a", AllocationRequest("sim:0", 4096), never())
        backend.readings("sim:0")
        assert backend.recent_readings("sim:0", None) is not None
        assert backend.pid == pid


@pytest.mark.parametrize("says", ["std::bad_alloc", "DefaultCPUAllocator: not enough memory"])
def test_a_first_process_that_finds_no_memory_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str
) -> None:
    """A device that another program fills as the worker starts is there once that has gone."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    told: SimpleQueue[DeviceInfo] = SimpleQueue()
    (tmp_path / "full").touch()
    options = {"path": str(tmp_path / "full"), "says": says}
    with isolated("misbehaving_backends:FindsNoMemory", clock=NoDelay(), **options) as backend:
        backend.begin(lambda devices: told.put(devices[0]))
        short, there = told.get(timeout=60), told.get(timeout=60)
        assert (short.state, there.state) == (DeviceState.UNAVAILABLE, DeviceState.AVAILABLE)
        assert short.state_reason is not None
        assert short.state_reason.endswith(f"failed: RuntimeError: {says}; it is tried again")
        backend.allocate("a", AllocationRequest("sim:0", 4096), never())


def test_what_fails_for_another_reason_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would change: an interpreter whose library is broken costs no start every half minute."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    clock, told = NoDelay(), SimpleQueue[DeviceInfo]()
    with isolated("misbehaving_backends:Raises", clock=clock) as backend:
        backend.begin(lambda devices: told.put(devices[0]))
        assert told.get(timeout=60).state is DeviceState.UNAVAILABLE
        done = threading.Event()
        backend._launching.do(done.set)
        assert done.wait(60)
        assert clock.delays == []


def test_memory_that_is_short_as_an_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that the process made is given up there: no caller learned of it."""
    read = frames.loads
    with isolated() as backend:
        backend.probe()

        def loads(_text: bytes) -> object:
            monkeypatch.setattr(frames, "loads", read)
            raise MemoryError

        monkeypatch.setattr(frames, "loads", loads)
        with pytest.raises(MemoryError):
            backend.allocate("a", AllocationRequest("sim:0", 4096), never())
        eventually(lambda: backend.live() == frozenset(), "it is given up: nobody waits for that")
        backend.allocate("a", AllocationRequest("sim:0", 4096), never())
        assert backend.live() == {"a"}


@pytest.mark.skipif(sys.platform == "win32", reason="how much a pipe holds can't be asked there")
def test_no_answer_is_written_in_the_middle_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is answered at once waits for an answer that a pipe does not hold, and that is written by another thread."""
    monkeypatch.setenv("PYTHONPATH", RIGS)
    with isolated("misbehaving_backends:SaysMuch") as backend:
        backend.probe()
        child = backend._presence.child
        assert child is not None
        pipe, answers = child._pipe, child.answers
        long = answers.begin("notes", ())
        held = 0
        while held < os.fpathconf(pipe._read_fd, "PC_PIPE_BUF"):
            held = int.from_bytes(fcntl.ioctl(pipe._read_fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        quick = [answers.begin("free", (f"none {n}",)) for n in range(20)]
        for n, each in enumerate(quick):
            with pytest.raises(KeyError, match=f"none {n}"):
                answers.result(each)
        assert answers.result(long) == ["x" * 2**20]
