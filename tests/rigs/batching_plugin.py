"""A plugin that digests more than there is headroom for, in batches, each in a buffer of the worker."""

import hashlib
from typing import Any

from worker.plugins import Call, PluginHost

ITEM_BYTES = 2**20


def register(host: PluginHost) -> None:
    """Add ``test.digest``: of so many items of 1 MiB, each all of one byte."""

    def digest(data: dict[str, Any], call: Call) -> dict[str, Any]:
        found, largest = hashlib.sha256(), 0
        work = host.batches(
            range(data["items"]), ITEM_BYTES, report=call.report, token=call.token, device=data["device_id"]
        )
        for batch in work:
            with batch as items, host.buffers.take(len(items) * ITEM_BYTES, device=batch.device_id) as buffer:
                for place, item in enumerate(items):
                    part = memoryview(buffer.memory)[place * ITEM_BYTES : (place + 1) * ITEM_BYTES]
                    part[:] = bytes([item % 256]) * ITEM_BYTES
                    part.release()
                found.update(buffer.memory[: len(items) * ITEM_BYTES])
                largest = max(largest, len(items))
        return {"digest": found.hexdigest(), "largest": largest, **vars(work.saved)}

    host.add_action("test.digest", digest)
