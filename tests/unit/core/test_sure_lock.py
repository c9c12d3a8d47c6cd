"""Locks that are let go of whatever happens."""

from typing import Any

import pytest

from worker.core.sure_lock import SureCondition, SureLock, SureRLock

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
