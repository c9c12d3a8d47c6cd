"""Locks that are let go of whatever happens."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import worker
from worker.core.sure_lock import SureCondition, SureEvent, SureLock, SureRLock

testcapi = pytest.importorskip("_testcapi", reason="the interpreter is without its own test modules")


def enter_and_leave(lock: Any, n: int) -> None:
    """Take a lock and leave it, while the n-th allocation of memory fails."""
    try:
        testcapi.set_nomemory(n, n + 1)
        with lock:
            pass
    except MemoryError:
        pass
    finally:
        testcapi.remove_mem_hooks()


@pytest.mark.parametrize("make", [SureLock, SureRLock, SureCondition, lambda: SureCondition(SureLock())])
def test_it_is_free_after_its_block(make: Any) -> None:
    """Whichever allocation fails as it is left, who held it holds it no more."""
    for n in range(20):
        lock = make()
        enter_and_leave(lock, n)
        with pytest.raises(RuntimeError):
            lock.release()


@pytest.mark.parametrize("make", [SureRLock, SureCondition])
def test_it_can_be_taken_again_by_who_holds_it(make: Any) -> None:
    """It is free once each block was left."""
    lock = make()
    with lock, lock:
        pass
    with pytest.raises(RuntimeError):
        lock.release()


@pytest.mark.parametrize(
    "use", [lambda each: each.set(), lambda each: each.wait(0), lambda each: each.clear()]
)
def test_an_event_can_be_used_whatever_failed_before(use: Any) -> None:
    """Whichever allocation fails as one thread uses it, no other waits for that one for ever."""
    for n in range(30):
        event = SureEvent()
        try:
            testcapi.set_nomemory(n, n + 1)
            use(event)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        assert not event._cond._lock.locked()
        event.set()
        assert event.wait(0)


OWN = Path(worker.__file__).parent
_UNSURE = {"Event", "Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Barrier", "Thread", "Timer", "Queue",
           "Future", "ThreadPoolExecutor"}  # fmt: skip
_ELSEWHERE = (
    "client/", "core/sure_lock.py", "backends/device_process.py", "backends/call_threads.py",
    "backends/isolation/filling.py",
)  # fmt: skip
"""The host's process, the locks themselves, and a device's process, which ends alone."""


def unsure(path: Path) -> Iterator[str]:
    """Return what a file makes of threading's own."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = set[str]()
        if isinstance(node, ast.ImportFrom) and node.module in {"threading", "queue", "concurrent.futures"}:
            names = {each.name for each in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            names = (
                {node.func.attr} if isinstance(of, ast.Name) and of.id in {"threading", "queue"} else names
            )
        yield from (f"{path.relative_to(OWN)} {each}" for each in names & _UNSURE)


def test_the_worker_has_no_others() -> None:
    """Locks, events and threads of threading's own may be kept, or waited for, for ever where memory was short."""
    files = [each for each in OWN.rglob("*.py") if not str(each.relative_to(OWN)).startswith(_ELSEWHERE)]
    assert [found for each in files for found in unsure(each)] == []
