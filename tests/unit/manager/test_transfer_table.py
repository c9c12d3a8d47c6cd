"""The table of transfers is bounded."""

import pytest

from protocol.vocabulary import TRANSFER_CAPACITY, TransferState
from worker.core.errors import InvalidRequestError
from worker.core.ids import Ids
from worker.manager.transfer_table import TransferTable


def test_transfers_are_bounded_but_for_those_that_run() -> None:
    """The last 1,024 are kept; the oldest ended ones go first, and what runs stays."""
    table = TransferTable(Ids())
    ends = {
        "state": TransferState.RUNNING,
        "source_allocation_id": "a",
        "source_device_id": "cpu",
        "destination_device_id": "cpu",
        "size_bytes": 1,
    }
    running = table.open(**ends)
    ids = []
    for _ in range(TRANSFER_CAPACITY + 5):
        ids.append(table.open(**ends).transfer_id)
        table.update(ids[-1], state=TransferState.COMPLETED)
    assert table.get(running.transfer_id).state is TransferState.RUNNING
    assert table.get(ids[-1]).state is TransferState.COMPLETED
    with pytest.raises(InvalidRequestError):
        table.get(ids[0])
