"""Waiting for models that come, go or are held. The manager says that there is something to wait for."""

from collections.abc import Callable
from typing import TypeVar

from worker.core.cancellation import CancelToken, wait_for_change
from worker.manager.model_table import ModelTable, SettlingError

T = TypeVar("T")


def once_settled(
    table: ModelTable, step: Callable[[], T], token: CancelToken, refresh: Callable[[], None] | None = None
) -> T:
    """Take a step of the manager's, again after each wait for a model.

    ``refresh`` reads devices before each try, without the lock. Raises what either and the token raise.
    """
    while True:
        if refresh is not None:
            refresh()
        token.check()
        with table.changed:
            try:
                return step()
            except SettlingError:
                wait_for_change(table.changed, token)
