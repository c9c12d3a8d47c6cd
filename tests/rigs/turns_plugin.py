"""A plugin whose work with a model is done one after the other, as by a library that has one lock for all."""

import os
import time
from typing import Any

from worker.core.sure_lock import SureLock
from worker.plugins import Call, PluginHost


def register(host: PluginHost) -> None:
    """Add ``test.take_turns``: {``model_id``, ``work_ms``} → {``pid``}, which says where it ran."""
    lock = SureLock()

    def take_turns(data: dict[str, Any], call: Call) -> dict[str, Any]:
        with host.models.use(data["model_id"], token=call.token), lock:
            time.sleep(data["work_ms"] / 1000)
        return {"pid": os.getpid()}

    host.add_action("test.take_turns", take_turns)
