"""Whatever fails, and wherever: each request gets one reply, others are not held up, and the worker ends in order."""

import fcntl
import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import psutil
import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually, gone, line, worker
from tests.rigs.odd_plugin import ODD

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, limits and descriptors as on POSIX")
PLUGIN = ("--plugin", "tests.rigs.odd_plugin")
STUCK = f"{256 * MIB},stall_copy=1"


def threads_of(started: Worker) -> int:
    """Return how many threads it has."""
    return len(list(Path(f"/proc/{started.pid}/task").iterdir()))


def descriptors_of(started: Worker) -> int:
    """Return how many descriptors it has open."""
    return len(list(Path(f"/proc/{started.pid}/fd").iterdir()))


# ---- one guard ----


def test_anything_that_a_plugin_raises_or_returns_is_one_reply() -> None:
    """Each is answered once, no thread is lost, and the worker ends at the end of its input."""
    with worker(*PLUGIN) as started:
        for name in [*ODD, *ODD]:
            reply = started.ask(f"odd.{name}", meta={"progress": True})
            assert reply["success"] is False, name
            assert reply["error"]["executed"] == "unknown" or reply["error"]["code"] in {
                "unsupported",
                "out_of_memory",
            }
        assert started.call("odd.nan") == {"x": None}
        assert len([each for each in started.frames if "event" not in each]) == 2 * len(ODD) + 2
        started.close_input()
        assert started.exit_code() == 0


def test_what_is_in_the_way_of_a_failed_job_goes_on() -> None:
    """A job that ends by something that nobody expected lets go of what it claimed."""
    with worker(*PLUGIN) as started:
        for _ in range(6):
            assert started.ask("odd.exit")["error"]["code"] == "internal_error"
        assert started.call("odd.nan") == {"x": None}


def test_no_reply_is_deeper_than_a_client_reads() -> None:
    """A plugin's answer that nests deeper than 64 is an error, as a request is."""
    with worker(*PLUGIN) as started:
        assert started.refused("odd.deep")["code"] == "internal_error"
        eventually(lambda: "nested deeper than 64" in started.stderr(), "the log says why")


# ---- nobody waits for another's slow party ----


def test_long_plugin_actions_hold_up_nothing_else() -> None:
    """With every thread of the plugins' taken, memory is allocated at once, and deadlines and cancels hold."""
    with worker(*PLUGIN) as started:
        for _ in range(4):
            started.send("odd.hang", {"seconds": 30})
        assert started.call("memory.allocate", {"size_bytes": 2 * MIB})["size_bytes"] == 2 * MIB
        waiting = started.send("odd.hang", {"seconds": 30})
        late = started.send("odd.hang", {"seconds": 30}, meta={"deadline_ms": 50})
        assert started.reply(late)["error"]["executed"] == "no"
        assert started.call("worker.cancel", {"request_id": waiting})["found"]
        assert started.reply(waiting)["error"]["code"] == "cancelled"


def test_work_that_does_not_notice_is_answered_for() -> None:
    """Neither a deadline nor a cancel waits for what hangs; what became of it is not known."""
    with worker(*PLUGIN) as started:
        late = started.send("odd.hang", {"seconds": 30}, meta={"deadline_ms": 300})
        cancelled = started.send("odd.hang", {"seconds": 30}, meta={"progress": True})
        started.event("progress", cancelled)
        started.call("worker.cancel", {"request_id": cancelled})
        assert started.reply(late)["error"]["code"] == "deadline_exceeded"
        assert started.reply(cancelled)["error"]["code"] == "cancelled"
        for each in (late, cancelled):
            assert started.reply(each)["error"]["executed"] == "unknown"
            assert len(started.replies(each)) == 1


def test_a_device_whose_process_hangs_holds_up_no_other() -> None:
    """Copies elsewhere, questions, leases and deadlines go on."""
    with worker("--simulated-device", f"{256 * MIB}", "--isolate", "simulated") as started:

        def states() -> list[str]:
            return [each["state"] for each in started.call("memory.get_status")["devices"]]

        eventually(lambda: states() == ["available", "available"], "the device's process is there")
        source = started.call("memory.allocate", {"size_bytes": 4096, "device_id": "cpu"})["allocation_id"]
        child = psutil.Process(started.pid).children()[0].pid
        os.kill(child, signal.SIGSTOP)
        started.call("memory.allocate", {"size_bytes": 4096, "device_id": "cpu", "lease_ms": 100})
        hung = started.send(
            "memory.allocate", {"size_bytes": 4096, "device_id": "sim:0"}, meta={"deadline_ms": 100}
        )
        for _ in range(5):
            started.send("memory.allocate", {"size_bytes": 8192, "device_id": "sim:0"})
        started.call("memory.transfer", {"source_allocation_id": source, "destination_device_id": "cpu"})
        started.call("memory.get_status", {"refresh": True})
        assert started.reply(hung)["error"]["code"] == "deadline_exceeded"
        eventually(
            lambda: len(started.call("memory.get_allocations", {"device_id": "cpu"})["allocations"]) == 2,
            "the lease",
        )
        started.terminate()
        assert started.exit_code() == 0
        eventually(lambda: gone(child), "its hung child goes with it")


def test_a_stderr_that_nobody_reads_stops_nothing() -> None:
    """Lines of the log, and what plugins print, wait for no reader."""
    readable, writable = os.pipe()
    command = (sys.executable, "-m", "worker", *PLUGIN, "--log-level", "debug")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writable, cwd=ROOT, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.close(writable)
        asked = [("odd.print", str(number)) for number in range(3)] + [("worker.ping", "last")]
        for action, request_id in asked:
            process.stdin.write(line(action, {}, request_id=request_id))
        answered = {orjson.loads(process.stdout.readline())["request_id"] for _ in asked}
        assert answered == {"0", "1", "2", "last"}
        process.stdin.close()
        assert process.wait(20) == 0
        os.close(readable)


# ---- ids ----


def test_an_id_in_flight_is_refused_for_other_work() -> None:
    """The same id for other work is an error; for the same work it is answered with the same answer."""
    with worker(*PLUGIN, "--simulated-device", STUCK) as started:
        started.send("odd.hang", {"seconds": 0.5}, request_id="x")
        for action, data in (
            ("worker.ping", {}),
            ("odd.hang", {"seconds": 7}),
            ("memory.allocate", {"size_bytes": 1}),
        ):
            started.send(action, data, request_id="x")
        started.send("odd.hang", {"seconds": 0.5}, request_id="x")
        replies = [started.reply("x", nth=number) for number in range(5)]
        assert [each["error"]["code"] for each in replies[:3]] == ["duplicate_request_id"] * 3
        assert replies[3]["success"]
        assert replies[4] == {**replies[3], "replayed": True}
        assert started.call("memory.get_usage")["devices"][0]["allocated_bytes"] == 0


# ---- lifetimes ----


def test_hellos_keep_nothing() -> None:
    """However often a host introduces itself, there is one watch of it."""
    with worker() as started:
        started.call("worker.hello", {"host_pid": os.getpid()})
        before = threads_of(started), descriptors_of(started)
        others = [os.getpid(), os.getppid()] * 100
        assert all(started.call("worker.hello", {"host_pid": pid})["host_watched"] for pid in others)
        assert threads_of(started) <= before[0]
        eventually(lambda: descriptors_of(started) <= before[1], "one watch")


def test_a_host_that_can_not_be_seen_is_not_watched() -> None:
    """A pid from another namespace ends nothing, and the reply says so: the pipe decides."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with worker() as started:
        assert started.call("worker.hello")["host_watched"] is None
        assert started.call("worker.hello", {"host_pid": process.pid})["host_watched"] is False
        assert started.call("worker.ping")
        started.close_input()
        assert started.exit_code() == 0


def test_leases_that_end_while_the_host_does_not_read() -> None:
    """They take no thread each, and what they freed is free; the events come once it reads."""
    count = 150  # what the pipe holds of their replies, and not of their events
    with Worker(reading=False) as started:
        started.send_bytes(
            line("worker.subscribe", {"events": ["memory.allocation_expired"]}, request_id="s")
        )
        data = {"size_bytes": 4096, "lease_ms": 1, "owner": "x" * 200}
        for number in range(count):
            started.send_bytes(line("memory.allocate", data, request_id=str(number)))
        started.start_reading()
        eventually(lambda: len(started.events("memory.allocation_expired")) == count, "every event")
        assert threads_of(started) < count / 5
        assert started.call("memory.get_usage")["devices"][0]["allocated_bytes"] == 0


# ---- descriptors and signals ----


def test_others_may_make_the_pipes_non_blocking() -> None:
    """Who shares stdin or stdout may set O_NONBLOCK on it at any time: nothing is lost."""
    with worker() as started:
        for stream in (started.process.stdin, started.process.stdout):
            assert stream is not None
            there = os.open(f"/proc/{started.pid}/fd/{_same(started, stream)}", os.O_RDWR | os.O_NONBLOCK)
            fcntl.fcntl(there, fcntl.F_SETFL, fcntl.fcntl(there, fcntl.F_GETFL) | os.O_NONBLOCK)
            os.close(there)
        for _ in range(50):
            started.call("worker.hello")


def _same(started: Worker, stream: Any) -> int:
    """Return the worker's descriptor of a pipe."""
    inode = os.fstat(stream.fileno()).st_ino
    folder = Path(f"/proc/{started.pid}/fd")
    return next(int(each.name) for each in folder.iterdir() if each.stat().st_ino == inode)


@pytest.mark.parametrize(
    ("name", "blocked"),
    [*product(["SIGTERM", "SIGHUP"], [False, True]), *((each, False) for each in ("SIGQUIT", "SIGUSR1", "SIGALRM", "SIGXCPU", "SIGRTMIN", "SIGRTMAX"))],
)  # fmt: skip
def test_signals_that_end_leave_nothing(name: str, tmp_path: Path, *, blocked: bool) -> None:
    """A worker ends in order by each, by the usual ones also where its host started it with them blocked."""
    script = (
        f"import os, signal, sys; signal.signal(signal.{name}, signal.SIG_DFL); "  # whoever runs this may ignore it
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.{name}}} if {blocked} else []); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = (sys.executable, "-c", script, sys.executable, "-m", "worker")
    with worker("--shared-folder", str(tmp_path), command=command) as started:
        shared = started.call("memory.allocate", {"size_bytes": 4096, "memory_type": "shared"})[
            "shared_memory"
        ]
        assert Path(shared["path"]).exists()
        started.process.send_signal(getattr(signal, name))
        assert started.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_nohup(name: str) -> None:
    """A signal that whoever started it ignores, as nohup or a shell does, ends nothing."""
    script = f"import os, signal, sys; signal.signal(signal.{name}, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with worker(command=(sys.executable, "-c", script, sys.executable, "-m", "worker")) as started:
        started.process.send_signal(getattr(signal, name))
        assert started.call("worker.ping")


@pytest.mark.parametrize("end", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_at_a_terminal(end: bytes) -> None:
    """Where stdin is a terminal there is a hint what to type, and both usual keys end it."""
    master, slave = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "worker"],  # noqa: S607 - found on the path
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"JSON requests, one a line" in process.stderr.readline()
        os.write(master, b'{"request_id": "1", "action": "worker.ping"}\n')
        assert orjson.loads(process.stdout.readline())["success"]
        os.write(master, end)
        assert process.wait(20) == 0
    os.close(master)
    os.close(slave)


def test_a_full_disk_behind_stdout_is_not_silent(tmp_path: Path) -> None:
    """Replies that could not be written are an error in the log and in the exit status."""
    with (tmp_path / "answers").open("wb") as answers:
        done = subprocess.run(
            ["prlimit", "--fsize=4096:4096", sys.executable, "-m", "worker"],  # noqa: S607 - found on the path
            input=line("worker.hello", {}, request_id="1") * 50,
            stdout=answers,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
            timeout=30,
            # Else Python keeps as much of a module's bytecode as the limit lets it, for all who come later.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert done.returncode == 3
    assert "replies are lost" in done.stderr.decode()


# ---- shortages ----


def test_every_question_is_answered_with_few_descriptors() -> None:
    """With 32 descriptors all questions have answers; what needs more says so, and may be asked again."""
    questions = (
        "worker.ping", "worker.hello", "memory.get_status", "memory.get_usage", "memory.get_allocations",
        "memory.get_pressure", "memory.get_analytics", "memory.get_metrics", "memory.get_model_status",
        "memory.get_optimization_recommendations",
    )  # fmt: skip
    limited = ("prlimit", "--nofile=32:32", sys.executable, "-m", "worker")
    with worker(command=limited) as started:
        while (reply := started.ask("memory.allocate", {"size_bytes": 4096, "memory_type": "shared"}))[
            "success"
        ]:
            if descriptors_of(started) >= 32 or len(started.frames) > 200:
                break
        if not reply["success"]:
            assert reply["error"]["code"] == "out_of_memory"
            assert reply["error"]["retryable"]
            assert reply["error"]["details"]["resource"] == "descriptors"
        for action in questions:
            data = {"refresh": True} if action == "memory.get_status" else {}
            assert started.ask(action, data)["success"], action
        started.close_input()
        assert started.exit_code() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may start a process as another user")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_start_without_threads_is_told_in_a_sentence(threads: int) -> None:
    """Wherever in the start they run out, models or none: one line, and exit status 2."""
    limited = (
        "prlimit",
        f"--nproc={threads}:{threads}",
        "setpriv",
        "--reuid=61234",
        "--regid=61234",
        "--clear-groups",
    )
    with TemporaryDirectory() as folder:  # the other user can't enter the one that pytest makes
        models = Path(folder) / "models.yaml"
        models.write_text("models: {a: {path: x}}")
        Path(folder).chmod(0o755)
        command = (*limited, sys.executable, "-m", "worker", "--models", str(models))
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "memory-worker: error: the system starts no more threads just now; try again; "
    )
    assert "ulimit -u" in done.stderr and done.stderr.count("\n") == 1


def test_every_question_is_answered_in_a_small_address_space() -> None:
    """A line that finds no memory, and allocations that do not fit, are refused; all else is answered."""
    limited = ("prlimit", f"--as={400 * MIB}", sys.executable, "-m", "worker")
    with Worker(command=limited) as started:
        big = started.send("memory.model_optimize", {"exclude_models": ["a"] * 2_000_000})
        made = [started.send("memory.allocate", {"size_bytes": 64 * MIB}) for _ in range(8)]
        assert all(started.call(each) for each in ("worker.ping", "memory.get_status", "memory.get_usage"))
        assert not started.reply(big)["success"]
        codes = {started.reply(each).get("error", {}).get("code") for each in made}
        refused = codes - {None}  # the last one that might fit would take the reserve
        assert refused and refused <= {"out_of_memory", "limit_exceeded"}
        started.close_input()
        assert started.exit_code() == 0
