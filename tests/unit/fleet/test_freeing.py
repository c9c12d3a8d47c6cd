"""What may give memory back is waited for by what comes after it, and by nothing else."""

import time

import pytest

from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError
from worker.fleet.freeing import Freeing


class Waiting:
    """Stands for who waits for an answer."""


def test_what_is_under_way_is_waited_for_until_it_is_answered_or_given_up() -> None:
    freeing, token = Freeing(), CancelToken(time.monotonic_ns)
    freed, unloaded, asked = Waiting(), Waiting(), Waiting()
    freeing.sent("memory.deallocate", freed)
    freeing.sent("memory.unload_model", unloaded)
    freeing.sent("memory.get_status", asked)
    before = freeing.numbers()
    assert len(before) == 2
    freeing.answered(freed)
    freeing.answered(asked)
    del unloaded
    later = Waiting()
    freeing.sent("memory.clear", later)
    freeing.wait(before, token)
    token.cancel()
    with pytest.raises(CancelledError):
        freeing.wait(freeing.numbers(), token)
