"""All that an operator's plugin imports; nothing below this package is promised to stay as it is.

A name is looked up where it lives when it is first used, so that this costs a worker without plugins nothing, and
can be imported in a device's process, whose interpreter has none of the worker's own dependencies.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.core.cancellation import CancelToken
    from worker.core.consumers import (
        Consumer,
        Consumers,
        CountingConsumer,
        Holding,
        LimitedConsumer,
        Offer,
        Usage,
    )
    from worker.core.errors import (
        AllocationNotFoundError,
        CancelledError,
        ChecksumMismatchError,
        DeadlineExceededError,
        DeviceLostError,
        DeviceNotFoundError,
        DeviceUnavailableError,
        InternalError,
        InvalidRequestError,
        LimitExceededError,
        ModelBusyError,
        ModelLoadFailedError,
        ModelNotFoundError,
        OutOfMemoryError,
        StoreNotFoundError,
        UnsupportedError,
        WorkerError,
    )
    from worker.core.models import TensorInfo
    from worker.eviction.entry_prices import ExpectedUses, PricedEntries
    from worker.plugins._batches import Batch, Batches, Saved
    from worker.plugins._buffer_views import Buffer
    from worker.plugins._host import PluginHost
    from worker.plugins._kv_stores import Beginning, Kv
    from worker.plugins._leases import LeasedModel
    from worker.plugins._remote_action import ModelAction
    from worker.plugins._searched_stores import (
        Documents,
        LoadedFolder,
        Near,
        Preference,
        Preferences,
        Vectors,
    )
    from worker.plugins._stores import Cache, HostStores, Session, Sessions
    from worker.stream.work import Call, PluginAction

__all__ = [
    "AllocationNotFoundError",
    "Batch",
    "Batches",
    "Beginning",
    "Buffer",
    "Cache",
    "Call",
    "CancelToken",
    "CancelledError",
    "ChecksumMismatchError",
    "Consumer",
    "Consumers",
    "CountingConsumer",
    "DeadlineExceededError",
    "DeviceLostError",
    "DeviceNotFoundError",
    "DeviceUnavailableError",
    "Documents",
    "ExpectedUses",
    "Holding",
    "HostStores",
    "InternalError",
    "InvalidRequestError",
    "Kv",
    "LeasedModel",
    "LimitExceededError",
    "LimitedConsumer",
    "LoadedFolder",
    "ModelAction",
    "ModelBusyError",
    "ModelLoadFailedError",
    "ModelNotFoundError",
    "Near",
    "Offer",
    "OutOfMemoryError",
    "PluginAction",
    "PluginHost",
    "Preference",
    "Preferences",
    "PricedEntries",
    "Saved",
    "Session",
    "Sessions",
    "StoreNotFoundError",
    "TensorInfo",
    "UnsupportedError",
    "Usage",
    "Vectors",
    "WorkerError",
]  # fmt: skip

_HOMES = {
    "Cache": "worker.plugins._stores",
    "Kv": "worker.plugins._kv_stores",
    "Beginning": "worker.plugins._kv_stores",
    "Vectors": "worker.plugins._searched_stores",
    "Documents": "worker.plugins._searched_stores",
    "LoadedFolder": "worker.plugins._searched_stores",
    "Preferences": "worker.plugins._searched_stores",
    "Preference": "worker.plugins._searched_stores",
    "Near": "worker.plugins._searched_stores",
    "HostStores": "worker.plugins._stores",
    "Session": "worker.plugins._stores",
    "Sessions": "worker.plugins._stores",
    "Batch": "worker.plugins._batches",
    "Batches": "worker.plugins._batches",
    "Buffer": "worker.plugins._buffer_views",
    "Saved": "worker.plugins._batches",
    "Call": "worker.stream.work",
    "CancelToken": "worker.core.cancellation",
    "Consumer": "worker.core.consumers",
    "Consumers": "worker.core.consumers",
    "CountingConsumer": "worker.core.consumers",
    "ExpectedUses": "worker.eviction.entry_prices",
    "Holding": "worker.core.consumers",
    "LeasedModel": "worker.plugins._leases",
    "LimitedConsumer": "worker.core.consumers",
    "ModelAction": "worker.plugins._remote_action",
    "Offer": "worker.core.consumers",
    "PluginAction": "worker.stream.work",
    "PluginHost": "worker.plugins._host",
    "PricedEntries": "worker.eviction.entry_prices",
    "TensorInfo": "worker.core.models",
    "Usage": "worker.core.consumers",
}
"""Where what is no error lives."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found = globals()[name] = getattr(import_module(_HOMES.get(name, "worker.core.errors")), name)
    return found
