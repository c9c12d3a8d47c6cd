"""How a gateway leaves: nodes free what it has there, none that hangs is waited for, and the last gateway ends those."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import ray

from worker.core.log import log
from worker.fleet.links import LOST, QUESTION_SECONDS, Link, unwaited


def leave(
    nodes: Iterable[Link], hanging: Sequence[Link], directory: Any, gateway: str, patience: float
) -> None:
    """Leave these nodes and the directory, in so many seconds at most.

    1. All are told. Those that hang do it once they are there again, and so does whatever does not answer a ping soon.
    2. What answered is waited for, while it frees what the gateway has there.
    3. A node without any gateway ends by itself, which one that hangs can't: it is killed.
    """
    until = time.monotonic() + patience
    for link in hanging:  # 1
        link.leave()
    leaving = {link.ping(): link.leave() for link in nodes}
    left = unwaited(directory.leave.remote(gateway), "leaving the directory")
    asked = [left, *leaving]
    there, _ = ray.wait(asked, num_returns=len(asked), timeout=min(patience, QUESTION_SECONDS))
    freeing = [leaving[each] for each in there if each in leaving]
    if freeing:  # 2
        ray.wait(freeing, num_returns=len(freeing), timeout=max(0.0, until - time.monotonic()))
    with suppress(*LOST):  # without the directory it is not known who else is there
        if hanging and left in there and ray.get(left):  # 3
            for link in hanging:
                log("warning", "a node that hangs is killed: no gateway is left", node=link.node_id)
                ray.kill(link.handle, no_restart=True)
