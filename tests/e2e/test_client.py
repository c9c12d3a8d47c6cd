"""The Python client with a real worker: calls, refusals, progress, cancelling, events, deaths."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.vocabulary import EventName, Executed, MemoryType, PressureLevel, StoreKind, TransferState
from tests.e2e.process import PATIENCE_SECONDS, ROOT
from worker.client import CallOptions, Client, Event, WorkerExitedError, connect, connect_async, workers
from worker.client.calls import Waiting
from worker.core.errors import CancelledError, DeadlineExceededError, InvalidRequestError, OutOfMemoryError

MIB = 2**20
PROMPTLY = CallOptions(deadline_ms=int(1000 * PATIENCE_SECONDS))
SLOW = "64MiB,bandwidth_bytes_per_second=1048576"
KILL = signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM


@pytest.fixture
def memory() -> Iterator[Client]:
    """Return a client with a device that copies a megabyte a second."""
    with connect("--simulated-device", SLOW) as client:
        yield client


def test_calls_are_typed_and_refusals_are_errors(memory: Client) -> None:
    """An answer is the contract's record; a refusal the worker's own error, and nothing was done."""
    made = memory.allocate(size_bytes=MIB, owner="kv", device_id="cpu", memory_type=MemoryType.HOST)
    assert (made.size_bytes, made.memory_type) == (MIB, MemoryType.HOST)
    assert memory.get_usage(device_id="cpu").devices[0].allocated_bytes == MIB
    with pytest.raises(OutOfMemoryError) as refused:
        memory.allocate(size_bytes=2**50, device_id="cpu")
    assert refused.value.executed is Executed.NO
    assert refused.value.details["requested_bytes"] == 2**50
    with pytest.raises(InvalidRequestError, match="data.size_bytes"):
        memory.allocate(size_bytes=-1)
    freed = memory.deallocate(allocation_id=made.allocation_id)
    assert freed.freed_bytes == MIB


def test_left_out_is_not_null(memory: Client) -> None:
    """``None`` is sent as null, which takes a cap away; what is left out is kept."""
    memory.set_limits(device_id="cpu", limit_bytes=64 * MIB)
    assert memory.set_limits(device_id="cpu", reserve_bytes=0).limits.limit_bytes == 64 * MIB
    assert memory.set_limits(device_id="cpu", limit_bytes=None).limits.limit_bytes is None


def test_a_stores_options_are_no_call_options(memory: Client) -> None:
    """They are told apart before anything is sent, and what could not be sent takes no other call's turn."""
    wrong: Any = {"ttl_ms": 1000}
    for _ in range(memory.hello.limits.max_inflight + 1):
        with pytest.raises(
            TypeError, match="takes CallOptions.*, not dict; a store's own options are options_="
        ):
            memory.store_open(store="s", kind=StoreKind.CACHE, options=wrong)
        with pytest.raises(TypeError, match="JSON"):
            memory.store_put(store="s", key="k", value=object())
    assert memory.store_open(store="s", kind=StoreKind.CACHE, options_=wrong).created


def test_progress_on_the_callers_thread(memory: Client) -> None:
    """Progress is told in order, by the thread that waits."""
    made = memory.allocate(size_bytes=MIB, device_id="cpu")
    seen: list[tuple[int, int]] = []
    threads = set()

    def note(completed: int, total: int) -> None:
        seen.append((completed, total))
        threads.add(threading.get_ident())

    done = memory.transfer(
        source_allocation_id=made.allocation_id,
        destination_device_id="sim:0",
        options=CallOptions(progress=note),
    )
    assert done.state is TransferState.COMPLETED
    assert seen == sorted(seen)
    assert threads <= {threading.get_ident()}


def test_a_deadline(memory: Client) -> None:
    """What is not done in time is rolled back."""
    made = memory.allocate(size_bytes=16 * MIB, device_id="cpu")
    with pytest.raises(DeadlineExceededError):
        memory.transfer(
            source_allocation_id=made.allocation_id, destination_device_id="sim:0",
            options=CallOptions(deadline_ms=50),
        )  # fmt: skip
    assert memory.get_usage(device_id="sim:0").devices[0].allocated_bytes == 0


def test_the_longest_deadline(memory: Client) -> None:
    """More than a thread can wait is for ever, and the longest that the worker takes is no error; below 0 it refuses."""
    assert memory.ping(options=CallOptions(deadline_ms=2**53)).uptime_ms >= 0
    with pytest.raises(InvalidRequestError):
        memory.ping(options=CallOptions(deadline_ms=-7000))


def test_many_threads_at_once(memory: Client) -> None:
    """More calls than the worker admits wait for their turn instead of being refused."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                memory.ping()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_death_is_told_and_the_next_call_has_a_new_worker() -> None:
    """A call on its way says that it is not known what became of it; events go on with the new worker."""
    exits: list[str] = []
    with connect("--simulated-device", SLOW, on_exit=exits.append) as memory:
        events = memory.events(EventName.ALLOCATION_EXPIRED)
        made = memory.allocate(size_bytes=16 * MIB, device_id="cpu")
        first = memory.hello.pid
        killer = threading.Timer(0.0, os.kill, (first, KILL))
        with pytest.raises(WorkerExitedError) as lost:
            memory.transfer(
                source_allocation_id=made.allocation_id, destination_device_id="sim:0",
                options=CallOptions(progress=lambda *_: killer.ident or killer.start()),
            )  # fmt: skip
        assert lost.value.executed is Executed.UNKNOWN
        assert memory.get_usage(device_id="cpu").devices[0].allocated_bytes == 0
        assert memory.hello.pid != first
        memory.allocate(size_bytes=4096, device_id="cpu", lease_ms=1)
        assert events.get(PATIENCE_SECONDS).name == EventName.ALLOCATION_EXPIRED
    assert len(exits) == 1
    said = "ended with exit code" if KILL is signal.SIGTERM else "the worker died of SIGKILL (killed:"
    assert said in exits[0]
    assert list(events) == []


def _ping_until_it_fails(memory: Client) -> None:
    while True:
        memory.ping()


def test_no_new_worker_where_none_is_wanted() -> None:
    """With ``restart=False`` a call after the death says so, and that it was not sent."""
    with connect(restart=False) as memory:
        os.kill(memory.hello.pid, KILL)
        with pytest.raises(WorkerExitedError):
            _ping_until_it_fails(memory)
        with pytest.raises(WorkerExitedError, match="restart=False") as refused:
            memory.ping()
        assert refused.value.executed is Executed.NO


def test_what_does_not_start_says_why() -> None:
    """The error has the process's own last words, or the system's where there is no process."""
    with pytest.raises(WorkerExitedError, match="there is no option --nonsense"):
        connect("--nonsense")
    with pytest.raises(WorkerExitedError, match="could not be started"):
        connect(command=["/there/is/no/such/interpreter"])


ODD_LINES = (
    "42",
    "null",
    '["a", "list"]',
    '{"request_id": ["a", "list"], "success": true}',
    '{"event": "memory.pressure_changed", "sequence": "many"}',
    '{"event": "progress", "request_id": "ID", "sequence": 1, "data": 7}',
)


@pytest.mark.parametrize("line", ODD_LINES)
def test_a_line_that_is_no_frame_costs_no_call(line: str) -> None:
    """What a library printed, or a worker of another version says otherwise: what comes after it is read all the same."""
    fake = (sys.executable, str(ROOT / "tests" / "rigs" / "fake_worker.py"))
    answer = '{"request_id": "ID", "success": true, "data": {"came": 1}}'
    with connect(command=fake) as memory:
        assert memory.call("fake.lines", {"lines": [line, answer]}, PROMPTLY) == {"came": 1}
        assert memory.call("fake.echo", {"text": "next"}, PROMPTLY)["text"] == "next"


def one_at_a_time(tmp_path: Path) -> Client:
    """Return a client of a worker that admits one request at a time, and answers what it likes."""
    hello = {"pid": 0, "protocol": 1, "limits": {"max_inflight": 1}}
    (tmp_path / "answers").write_text(json.dumps({"worker.hello": hello}))
    fake = str(ROOT / "tests" / "rigs" / "fake_worker.py")
    return connect("--answers", str(tmp_path / "answers"), command=(sys.executable, fake))


def test_a_call_that_the_worker_admits_no_more_ends_with_its_time(tmp_path: Path) -> None:
    """It was not sent, and says so; the one before it is answered yet."""
    with one_at_a_time(tmp_path) as memory:
        first = Waiting()
        connection, request_id = memory._workers.send("fake.hang", {}, PROMPTLY, first)
        with pytest.raises(DeadlineExceededError, match="as many calls are on their way") as refused:
            memory.call("fake.echo", {}, CallOptions(deadline_ms=1))
        assert refused.value.executed is Executed.NO
        connection.cancel(request_id)
        with pytest.raises(CancelledError):
            first.wait(PROMPTLY)
        assert memory.call("fake.echo", {"text": "next"}, PROMPTLY)["text"] == "next"


def test_without_a_thread_for_its_answers_no_worker_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and what was started is gone."""
    start, before = threading.Thread.start, set(psutil.Process().children())

    def refused(thread: threading.Thread) -> None:
        if thread.name == "memory-worker-replies":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(WorkerExitedError, match="can't start new thread"):
        connect()
    assert set(psutil.Process().children()) <= before


DYING = """
import json, os, sys
if os.path.exists(sys.argv[1]) and "later at once" in sys.argv:
    sys.exit(1)
request = json.loads(sys.stdin.readline())
hello = {"pid": 0, "protocol": 1, "limits": {"max_inflight": 1}}
print(json.dumps({"request_id": request["request_id"], "success": True, "data": hello}), flush=True)
open(sys.argv[1], "a").write("x")
"""


def _refused_without_a_start(memory: Client) -> bool:
    with pytest.raises(WorkerExitedError) as failed:
        memory.ping()
    return "tried again in" in str(failed.value) and failed.value.executed is Executed.NO


def test_a_worker_that_always_dies_is_not_started_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After quick ends in a row calls are refused at once, and no process is started for them."""
    monkeypatch.setattr(workers, "_QUICK_SECONDS", PATIENCE_SECONDS)  # as quick as a busy machine lets it end
    monkeypatch.setattr(workers, "_WAIT_SECONDS", (0.0, 0.0, PATIENCE_SECONDS))
    starts = tmp_path / "starts"
    with connect(command=[sys.executable, "-c", DYING, str(starts)]) as memory:
        assert any(_refused_without_a_start(memory) for _ in range(10))
        assert starts.read_text() == "xx"


def test_a_start_that_fails_is_a_quick_end_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that fails as a large library is imported, or where the machine is busy, is started over and over no more than any."""
    monkeypatch.setattr(workers, "_QUICK_SECONDS", 1e-6)  # no process is started in so little
    monkeypatch.setattr(workers, "_WAIT_SECONDS", (0.0, 0.0, PATIENCE_SECONDS))
    with connect(command=[sys.executable, "-c", DYING, str(tmp_path / "starts"), "later at once"]) as memory:
        assert any(_refused_without_a_start(memory) for _ in range(10))


def test_the_worker_ends_with_its_client() -> None:
    """Neither closing nor being killed leaves a worker behind."""
    with connect() as memory:
        closed = memory.hello.pid
    assert not psutil.pid_exists(closed)
    script = "from worker.client import connect; m = connect(); print(m.hello.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        assert host.stdout is not None
        worker = psutil.Process(int(host.stdout.readline()))
        host.kill()
        worker.wait(PATIENCE_SECONDS)


def test_nothing_heavy_is_imported() -> None:
    """A host that only talks to a worker imports no pydantic, no psutil and nothing of the worker's own."""
    script = (
        "import sys, worker.client;"
        "print([name for name in sys.modules if name.split('.')[0] in {'pydantic', 'psutil', 'torch'}"
        " or name.startswith(('worker.manager', 'worker.stream', 'worker.backends'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_asyncio() -> None:
    """Coroutines: calls side by side, events, refusals, and a cancelled task that cancels its request."""

    async def main() -> None:
        async with connect_async("--simulated-device", SLOW) as memory:
            answers = await asyncio.gather(*(memory.ping() for _ in range(600)))
            assert len(answers) == 600
            pressure = await memory.get_pressure(device_id="sim:0")
            assert pressure.pressure_level is PressureLevel.LOW
            with pytest.raises(OutOfMemoryError):
                await memory.allocate(size_bytes=2**50, device_id="cpu")
            made = await memory.allocate(size_bytes=16 * MIB, device_id="cpu")
            begun = asyncio.Event()
            copying = asyncio.create_task(
                memory.transfer(
                    source_allocation_id=made.allocation_id, destination_device_id="sim:0",
                    options=CallOptions(progress=lambda *_: begun.set()),
                )
            )  # fmt: skip
            await begun.wait()
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying
            async with memory.events(EventName.ALLOCATION_EXPIRED) as events:
                await memory.allocate(size_bytes=4096, device_id="cpu", lease_ms=1)
                event = await anext(events)
                assert isinstance(event, Event)
            freed = await memory.get_usage(device_id="sim:0")
            while freed.devices[0].allocated_bytes:  # the cancelled copy is being rolled back
                freed = await memory.get_usage(device_id="sim:0")

    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE_SECONDS))


def test_a_refusal_is_found_in_the_workers_log(caplog: pytest.LogCaptureFixture) -> None:
    """By the request's id, which the error has, and by the caller's own trace."""
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    caplog.set_level("DEBUG", "memory_worker")
    with connect("--log-level", "debug") as client, pytest.raises(OutOfMemoryError) as refused:
        client.allocate(size_bytes=2**50, options=CallOptions(traceparent=traceparent))
    (line,) = [
        vars(each)
        for each in caplog.records
        if each.message.startswith("refused, ") and vars(each)["request_id"] == refused.value.request_id
    ]
    assert (line["levelname"], line["traceparent"]) == ("DEBUG", traceparent)
    assert "action memory.allocate, code out_of_memory, reason " in line["message"]
    assert line["fields"]["code"] == "out_of_memory"


def test_figures_at_once_and_again(memory: Client) -> None:
    """As often as the reader wants that wants them most often; they are not among the events of who names none."""
    memory.allocate(size_bytes=60 * MIB, device_id="sim:0")
    with memory.events() as happened, memory.events(EventName.FIGURES) as seldom:
        first = seldom.get(PATIENCE_SECONDS)
        (sim,) = [each for each in first.data.devices if each.device_id == "sim:0"]
        assert (sim.allocated_bytes, sim.pressure_level) == (60 * MIB, PressureLevel.HIGH)
        with memory.events(EventName.FIGURES, figures_every_ms=1000) as often:
            assert [often.get(PATIENCE_SECONDS).data.skipped for _ in range(2)] == [0, 0]
            assert seldom.get(PATIENCE_SECONDS).sequence > first.sequence
        with pytest.raises(InvalidRequestError, match="figures_every_ms"):
            memory.events(EventName.FIGURES, figures_every_ms=999)
    # The machine's own memory may be short just now, which is told.
    assert EventName.FIGURES not in {each.name for each in happened}


def test_a_call_cancelled_by_its_own_progress(memory: Client) -> None:
    """Whatever a progress handler raises goes to the caller; an interrupt cancels the request."""
    made = memory.allocate(size_bytes=16 * MIB, device_id="cpu")

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.transfer(
            source_allocation_id=made.allocation_id, destination_device_id="sim:0",
            options=CallOptions(progress=interrupt),
        )  # fmt: skip
    while memory.get_usage(device_id="sim:0").devices[0].allocated_bytes:
        pass  # it is being rolled back


def test_a_number_that_json_has_not_is_refused_before_it_is_sent(memory: Client) -> None:
    """It would be stored as null; the client goes on, however often that is."""
    memory.store_open(store="c", kind=StoreKind.CACHE)
    for _ in range(200):
        with pytest.raises(ValueError, match=r"no number nan at data\.value\.a\[1\]"):
            memory.store_put(store="c", key="k", value={"a": [None, float("nan")]})
    assert memory.store_put(store="c", key="k", value={"a": [None, 1.5]}).stored
    assert memory.store_get(store="c", key="k").value == {"a": [None, 1.5]}
