"""A node's worker, which is a real one."""

import psutil

from tests.e2e.process import eventually
from worker.fleet.node_worker import NodeWorker


def test_a_worker_that_dies_is_started_again_and_how_long_there_was_none_is_known() -> None:
    """From its end until the next one answers, however late that is noticed."""
    node = NodeWorker(("--simulated-device", "1MiB"), lambda: None)
    try:
        connection, first = node.connection, node.incarnation
        assert connection is not None
        assert node.down_ms == 0
        psutil.Process(connection.pid).kill()
        eventually(lambda: node.connection is None, "the worker's end")
        assert node.restart()
        assert node.incarnation > first
        assert node.down_ms > 20  # no Python starts faster
    finally:
        node.close()
