"""The Python client: starts a worker, talks to it, and replaces it when it dies.

``connect(...)`` for threads, ``connect_async(...)`` for asyncio; both offer every action of the contract as a typed
method. Nothing of the worker itself is imported, and no pydantic.
"""

from worker.client.async_client import AsyncClient, connect_async
from worker.client.calls import LEFT_OUT, CallOptions, WorkerExitedError
from worker.client.client import Client, connect
from worker.client.consumers import Cache, Consumers, Holding
from worker.client.events import Event, Events

__all__ = [
    "LEFT_OUT",
    "AsyncClient",
    "Cache",
    "CallOptions",
    "Client",
    "Consumers",
    "Event",
    "Events",
    "Holding",
    "WorkerExitedError",
    "connect",
    "connect_async",
]
