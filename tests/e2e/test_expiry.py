"""The ends of leases, as a host sees them: of thousands at once, unread, and of what was freed long before."""

import os
from pathlib import Path

import psutil

from tests.e2e.process import Worker, eventually, line, worker

EXPIRED = "memory.allocation_expired"
LEASES = 3000
LEASE_MS = 4000
THREADS_MORE = 4
"""What a lane of background work may come to, however much of it waits."""
PAGE = 4096
HOUR_MS = 3_600_000


def read_lines(started: Worker, count: int) -> list[bytes]:
    """Read so many lines, and not a byte more, as a host does that then stops reading."""
    assert started.process.stdout is not None
    descriptor, held = started.process.stdout.fileno(), b""
    while held.count(b"\n") < count:
        chunk = os.read(descriptor, 1 << 16)
        assert chunk, held[-500:]
        held += chunk
    *lines, rest = held.split(b"\n")
    assert not rest
    return lines


def test_thousands_of_leases_end_while_the_host_does_not_read(tmp_path: Path) -> None:
    """They end in time, on few threads, count for no request in flight, and each is told of once the host reads."""
    with Worker("--shared-folder", str(tmp_path), "--max-inflight", "4", reading=False) as started:
        started.send("worker.subscribe", {"events": [EXPIRED]})
        read_lines(started, 1)
        leased = {"device_id": "cpu", "size_bytes": PAGE, "memory_type": "shared", "lease_ms": LEASE_MS}
        told = 0
        for first in range(0, LEASES, 100):
            names = (f"a{number}" for number in range(first, first + 100))
            started.send_bytes(b"".join(line("memory.allocate", leased, request_id=name) for name in names))
            # Where the machine is so slow that leases end meanwhile, their events come in between.
            answered = 0
            while answered < 100:
                lines = read_lines(started, 100 - answered)
                told += sum(EXPIRED.encode() in each for each in lines)
                answered += sum(b'"success":true' in each for each in lines)
        process = psutil.Process(started.pid)
        threads = [process.num_threads()]

        def all_ended() -> bool:
            threads.append(process.num_threads())
            return not any(each.is_file() and each.stat().st_size == PAGE for each in tmp_path.rglob("*"))

        eventually(all_ended, "every lease has ended, though nothing of it was read")
        assert max(threads) <= threads[0] + THREADS_MORE
        asked = started.send("memory.get_allocations", {"device_id": "cpu"})
        started.start_reading()
        answer = started.reply(asked)
        assert answer["success"], answer
        assert answer["data"]["allocations"] == []
        eventually(lambda: len(started.events(EXPIRED)) + told == LEASES, "every lease was told of")
        ids = {event["data"]["allocation_id"] for event in started.events(EXPIRED)}
        assert len(ids) + told == LEASES
        sequence = [event["sequence"] for event in started.events(EXPIRED)]
        assert sequence == list(range(told + 1, LEASES + 1))


def test_what_was_freed_before_a_days_lease_leaves_nothing() -> None:
    """After thousands of leases of a day that were freed at once, the worker has grown by less than 100 bytes for each."""
    with worker() as started:
        # One that ends sooner, and lives: what was freed behind it is not at the front of any queue.
        kept = started.call("memory.allocate", {"size_bytes": PAGE, "lease_ms": HOUR_MS})["allocation_id"]

        def allocate_and_free(first: int, count: int) -> None:
            for number in range(first, first + count, 100):
                names = [
                    started.send(
                        "memory.allocate", {"device_id": "cpu", "size_bytes": PAGE, "lease_ms": 24 * HOUR_MS}
                    )
                    for _ in range(100)
                ]
                ids = [started.reply(name)["data"]["allocation_id"] for name in names]
                for name in [started.send("memory.deallocate", {"allocation_id": each}) for each in ids]:
                    assert started.reply(name)["success"], number

        allocate_and_free(0, 5000)  # what is bounded fills up: the answers that are repeated, the history
        before = started.rss()
        allocate_and_free(5000, 10_000)
        assert started.rss() - before < 10_000 * 100
        rows = started.call("memory.get_allocations")["allocations"]
        assert [row["allocation_id"] for row in rows] == [kept]
