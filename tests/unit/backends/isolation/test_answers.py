"""Calls and who reads their answers: alone, among others, and where what comes is another's, late, or no answer."""

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from tests.unit.isolation import never
from worker.backends.isolation import answers as module
from worker.backends.isolation import reader
from worker.backends.isolation.answers import Answers
from worker.backends.isolation.call import Call
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.frames import FramePipe
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, OutOfMemoryError

Say = Callable[[int], list[list[Any]] | bytes]


class Peer:
    """The other end: says what it is told to when a call comes."""

    def __init__(self) -> None:
        read_fd, their_write = os.pipe()
        their_read, write_fd = os.pipe()
        self.ours = FramePipe(read_fd, write_fd, os.dup(their_write), waits_briefly=True)
        self.theirs = FramePipe(their_read, their_write)
        self.broken: list[str] = []
        self.hanging: list[str] = []
        self.answers = Answers(self.ours, lambda: self.broken.append("broken"), self.hanging.append)
        self.heard: SimpleQueue[list[Any]] = SimpleQueue()
        self.says: SimpleQueue[Say] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while (message := self.theirs.receive()) is not None:
            self.heard.put(message)
            if len(message) == 1:  # a call is to be cancelled
                continue
            said = self.says.get()(message[0])
            if isinstance(said, bytes):
                self.theirs.write(said)
            else:
                for each in said:
                    self.theirs.send(each)

    def call(self, say: Say, *arguments: Any, **more: Any) -> Any:
        """Call while it says that."""
        self.says.put(say)
        return self.answers.call("free", arguments, **more)

    def at_rest(self) -> bool:
        """Tell whether nothing is left of any call."""
        return not self.answers.reader.calls and bool(self.answers.reader.right)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Return one, which ends."""
    made = Peer()
    yield made
    made.ours.close_output()
    made.thread.join()
    made.theirs.close()
    made.answers.reader.stop_waiting()
    if made.answers._end is None:
        made.answers.end(Ending("over", ran_out=False))
    made.ours.close()


def out_of_memory(number: int) -> list[list[Any]]:
    """Answer so."""
    error = OutOfMemoryError("no", device_id="d", requested_bytes=1)
    packed = {"code": error.code, "lost": False, "message": "no", "executed": "no", "details": error.details}
    return [[number, None, packed]]


def test_what_comes_at_once(peer: Peer) -> None:
    """An answer is returned, an error raised, and nothing is left of either."""
    assert peer.call(lambda number: [[number, 7]], "a") == 7
    assert peer.heard.get() == [1, "free", ["a"], None]
    assert peer.call(lambda number: [[number, None]]) is None
    with pytest.raises(OutOfMemoryError, match="no"):
        peer.call(out_of_memory)
    assert peer.at_rest()


def test_names_that_are_no_text_cross_over(peer: Peer) -> None:
    """As a call's arguments, which the faster writer refuses."""
    assert peer.call(lambda number: [[number, 1]], "\udcff") == 1
    assert peer.heard.get()[2] == ["\udcff"]


def test_what_comes_before_an_answer(peer: Peer) -> None:
    """Reports of others, answers to calls that are given up, and bytes of an answer: the answer is found behind them."""
    told: list[str] = []
    peer.says.put(lambda _: [])
    given_up = peer.answers.begin("free", ("b",))
    peer.answers.abandon(given_up, on_answer=lambda: told.append("given up"))
    assert peer.call(lambda number: [[given_up.number, 5], [number, 6]]) == 6
    assert told == ["given up"]
    assert peer.call(lambda number: [[99, None, None, [1, 2]], [number, 8]]) == 8
    assert peer.call(lambda number: [[99, 1], [number, 9]]) == 9
    assert peer.at_rest()


def test_an_answer_that_is_late(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, or handed to who was told; a call that can be cancelled by then is."""
    monkeypatch.setattr(module, "_AT_ONCE_S", 0.0)
    told = threading.Event()

    def late(number: int) -> list[list[Any]]:
        assert told.wait(30)
        return [[number, 3]]

    def waited(call: Call) -> Any:
        assert call.answer is None
        told.set()
        return peer.answers.result(call)

    assert peer.call(late, late=waited) == 3
    token = CancelToken(lambda: 0)
    monkeypatch.setattr(module, "LAST_WORD_S", 0.0)
    undone = threading.Event()

    def undoes(number: int) -> list[list[Any]]:
        token.cancel()
        assert peer.heard.get() == [number, "free", [], None]
        assert undone.wait(30)
        return [[number, 4]]

    peer.heard.get()
    with pytest.raises(CancelledError):
        peer.call(undoes, token=token, undo=("unload", "a"))
    undone.set()
    assert peer.call(lambda number: [[number, 1]]) == 1
    peer.says.put(lambda number: [[number, None]])
    assert peer.call(lambda number: [[number, 2]]) == 2
    heard = [peer.heard.get()[1:3] for _ in range(4)]
    assert heard == [[], ["free", []], ["unload", ["a"]], ["free", []]]
    assert peer.at_rest()


def test_a_process_that_does_not_answer_is_ended(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the caller's patience; what it waits for then is how it ended."""
    monkeypatch.setattr(module, "_AT_ONCE_S", 0.0)
    over = threading.Event()

    def hanging(why: str) -> None:
        peer.hanging.append(why)
        peer.answers.reader.stop_waiting()
        peer.answers.end(Ending("killed", ran_out=False))

    peer.answers._on_hanging = hanging
    with pytest.raises(EndedError, match="killed"):
        peer.call(lambda _: [[]] if over.wait(30) else [], patience_s=0.0)
    assert peer.hanging == ["did not answer 'free' within 0 s and was killed"]
    with pytest.raises(EndedError, match="killed"):
        peer.answers.call("free", ())
    over.set()


@pytest.mark.parametrize("noise", [b"nope\n", b"{}\n", b"7\n", b'"ab"\n', b"[[],1]\n"])
def test_what_is_no_answer(peer: Peer, noise: bytes) -> None:
    """It is told of, so that the process is ended; nothing is read from then on, and the call hears of the end."""
    broken = threading.Thread(target=lambda: peer.answers.end(Ending("noise", ran_out=False)))
    peer.answers.reader._on_broken = broken.start
    with pytest.raises(EndedError, match="noise"):
        peer.call(lambda _: noise)
    broken.join()
    assert not peer.answers.reader.more


def test_an_end_in_the_middle_of_a_call(peer: Peer) -> None:
    """Whoever waits hears how it ended, and so does whoever calls afterwards."""

    def end() -> None:
        peer.answers.reader.stop_waiting()
        peer.answers.end(Ending("gone", ran_out=False))

    ending = threading.Thread(target=end)

    def die(_: int) -> list[list[Any]]:
        peer.theirs.close_output()
        ending.start()
        return []

    with pytest.raises(EndedError, match="gone"):
        peer.call(die)
    ending.join()
    with pytest.raises(EndedError, match="gone"):
        peer.answers.call("free", ())


def test_an_end_whose_pipe_another_process_holds(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits reads no more once it is seen, however long there is no end of what could be read."""
    monkeypatch.setattr(module, "_AT_ONCE_S", 0.0)
    monkeypatch.setattr(reader, "_LAST_LOOKS", 10**9)
    heard: SimpleQueue[str] = SimpleQueue()

    def call() -> None:
        with pytest.raises(EndedError) as ended:
            peer.answers.call("trim", ())
        heard.put(str(ended.value.end.reason))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for each in callers:
        peer.says.put(lambda _: [])
        each.start()
    for _ in callers:
        peer.heard.get()
    peer.answers.reader.stop_waiting()
    ending = threading.Thread(target=lambda: peer.answers.end(Ending("gone", ran_out=False)), daemon=True)
    ending.start()
    assert [heard.get(timeout=30) for _ in callers] == ["gone"] * 3
    for each in (ending, *callers):
        each.join()


def test_many_at_once(peer: Peer) -> None:
    """Each caller has its own answer, in whichever order they come."""
    threads, calls = 6, 50
    held: list[list[Any]] = []
    right: list[bool] = []

    def shuffled(number: int) -> list[list[Any]]:
        held.append([number, peer.heard.get()[2]])
        if len(held) < threads:
            return []
        said, held[:] = held[::-1], []
        return said

    def call(mine: int) -> None:
        right.extend(peer.answers.call("free", (mine, n)) == [mine, n] for n in range(calls))

    for _ in range(threads * calls):
        peer.says.put(shuffled)
    running = [threading.Thread(target=call, args=(n,)) for n in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join(60)
    assert right == [True] * threads * calls
    assert peer.at_rest()


def test_what_changes_a_device_is_counted_by_messages(peer: Peer) -> None:
    """Both ends count alike, so that figures tell whether they are of after a change."""
    peer.call(lambda number: [[99, None, None, [1, 2]], [number, 1]])
    assert peer.answers.reader.changed == peer.theirs.sent == 2
    peer.says.put(lambda number: [[number, []]])
    peer.answers.call("readings", ("d",))
    assert (peer.answers.reader.changed, peer.theirs.sent) == (2, 3)
    with pytest.raises(OutOfMemoryError):
        peer.call(out_of_memory, token=never())
    assert peer.answers.reader.changed == peer.theirs.sent == 4
