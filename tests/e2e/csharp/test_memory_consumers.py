"""A host's own memory makes room for what the worker is asked for: a real MemoryCache, seen in the process's memory."""

import sys
import threading
from typing import Any

import pytest

from tests.e2e.csharp.clock import standing
from tests.e2e.csharp.host import REPOSITORY, make, run_probe, until, wait
from tests.e2e.csharp.in_memory import TESTING
from tests.rigs.dotnet.fixtures import Load
from tests.rigs.dotnet.toolchain import Toolchain

HOSTING = "csharp_host/src/MemoryWorker.Hosting/MemoryWorker.Hosting.csproj"
MIB = 2**20


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain) -> dict[str, Any]:
    """Run the probe once and return what it saw."""
    return run_probe(toolchain, "CacheProbe", sys.executable, str(REPOSITORY))


def test_what_it_holds_is_registered(seen: dict[str, Any]) -> None:
    """The cache is known with its bytes, its floor and its price as soon as the host runs."""
    assert seen["registered"] == {
        "HeldBytes": 400 * MIB,
        "FloorBytes": 64 * MIB,
        "Kind": "memory_cache",
        "DeviceId": "cpu",
        "priced": True,
    }


def test_it_gives_back_to_the_system(seen: dict[str, Any]) -> None:
    """What was needed is out of the process, as the system counts it, and the worker saw that; the oldest went."""
    assert 200 * MIB <= seen["claimed"] <= 300 * MIB
    assert seen["rss_fell"] >= 0.9 * seen["claimed"]
    assert seen["returned"] >= 0.9 * seen["claimed"]
    assert seen["order"] == ["the oldest went", "the newest stayed"]


def test_it_does_not_fill_up_again(seen: dict[str, Any]) -> None:
    """Its limit fell before it gave anything back, and holds against what comes afterwards."""
    assert 64 * MIB <= seen["limit"] <= 400 * MIB - seen["claimed"] + MIB
    assert seen["full"] == 480 * MIB


def test_one_that_throws_holds_up_no_other(seen: dict[str, Any]) -> None:
    """It is asked, as the cheapest, and answers for nothing; that is logged, and the others give what is needed."""
    assert "stubborn 0 0" in seen["released"]
    assert "The memory consumer stubborn threw" in seen["log"]


def test_one_that_the_worker_refuses_threw_nothing(seen: dict[str, Any]) -> None:
    """The log says which, and why, in a line: nothing of the host's own code is at fault."""
    assert "Room is made without model:mine until the memory worker takes it: " in seen["log"]
    assert "model:mine threw" not in seen["log"]
    assert "WorkerRequestException" not in seen["log"]


def test_the_next_worker_knows_it(seen: dict[str, Any]) -> None:
    """After its worker's death it is registered anew; when the host ends, it is unregistered."""
    assert (seen["known_again"], seen["left"]) == ("responses", 0)


def test_a_cache_that_does_not_know_its_bytes(load: Load) -> None:
    """It is refused, with what to set."""
    load(HOSTING)
    import System
    from MemoryWorker.Hosting import MemoryCacheConsumer, MemoryCacheConsumerOptions
    from Microsoft.Extensions.Caching.Memory import MemoryCache, MemoryCacheOptions

    options = MemoryCacheOptions()
    with pytest.raises(System.ArgumentException, match="set SizeLimit and TrackStatistics"):
        MemoryCacheConsumer("mine", MemoryCache(options), options, MemoryCacheConsumerOptions())


def test_two_of_one_name(load: Load) -> None:
    """The worker could not tell them apart: refused before anything is registered."""
    load(HOSTING)
    import System
    from MemoryWorker.Client import (
        IMemoryConsumer,
        MemoryConsumers,
        PythonWorkerOptions,
        PythonWorkerService,
        ServiceMemory,
    )
    from MemoryWorker.Hosting import MemoryCacheConsumer, MemoryCacheConsumerOptions
    from Microsoft.Extensions.Caching.Memory import MemoryCache, MemoryCacheOptions

    options = MemoryCacheOptions()
    options.SizeLimit, options.TrackStatistics = 100, True
    made = [
        MemoryCacheConsumer("mine", MemoryCache(options), options, MemoryCacheConsumerOptions())
        for _ in range(2)
    ]
    worker = PythonWorkerService(PythonWorkerOptions())
    with pytest.raises(System.ArgumentException, match="two consumers have the id 'mine': the worker tells"):
        MemoryConsumers(ServiceMemory(worker), worker, System.Array[IMemoryConsumer](made), None, None)


def test_renewals(load: Load) -> None:
    """They come by the clock that is given, three in a lease; however often one is asked for, one is made."""
    load(HOSTING, TESTING)
    import System
    from MemoryWorker.Client import IMemoryConsumer, MemoryConsumers
    from MemoryWorker.Client.Protocol import WireActions
    from MemoryWorker.Hosting import MemoryCacheConsumer, MemoryCacheConsumerOptions
    from MemoryWorker.Testing import InMemoryWorker
    from Microsoft.Extensions.Caching.Memory import MemoryCache, MemoryCacheOptions

    options = MemoryCacheOptions()
    options.SizeLimit, options.TrackStatistics = 100, True
    cache = MemoryCacheConsumer("mine", MemoryCache(options), options, MemoryCacheConsumerOptions())
    clock, worker = standing(), InMemoryWorker(None, None, None)
    consumers = MemoryConsumers(
        worker.Memory, worker, System.Array[IMemoryConsumer]([cache]), System.TimeSpan.FromSeconds(30), clock
    )

    def made() -> int:
        return sum(one.Action == "memory.register_consumer" for one in worker.Requests)

    consumers.Start()
    until(lambda: made() == 1 and clock.waiting)
    for number in (2, 3):
        clock.move(System.TimeSpan.FromSeconds(9))
        assert made() == number - 1
        clock.move(System.TimeSpan.FromSeconds(1))
        until(lambda number=number: made() == number and clock.waiting)
    held = worker.Hold(WireActions.RegisterConsumer)
    consumers.Renew()
    until(lambda: made() == 4)
    for _ in range(1000):
        consumers.Renew()
    held.Dispose()
    until(lambda: made() >= 5 and clock.waiting)
    held = worker.Hold(WireActions.RegisterConsumer)
    clock.move(System.TimeSpan.FromSeconds(10))
    until(lambda: made() >= 6)
    assert made() == 6  # none of the thousand is left
    held.Dispose()
    wait(consumers.DisposeAsync())
    wait(worker.DisposeAsync())


def test_an_offer_of_nothing_is_none(load: Load) -> None:
    """An empty cache that offers all it holds is registered, and not refused."""
    load(HOSTING, TESTING)
    import System
    from MemoryWorker.Client import IMemoryConsumer, MemoryConsumers, MemoryHolding, MemoryOffer
    from MemoryWorker.Testing import InMemoryWorker

    class Empty(IMemoryConsumer):  # type: ignore[misc]  # a type of .NET's
        __namespace__ = "Tests.Consumers"

        def get_Id(self) -> str:
            return "empty"

        def Describe(self) -> Any:
            offers = System.Array[MemoryOffer]([MemoryOffer(0, System.TimeSpan.FromSeconds(1))])
            return make(MemoryHolding, HeldBytes=0, Offers=offers)

    worker = InMemoryWorker(None, None, None)
    failed: list[str] = []
    consumers = MemoryConsumers(worker.Memory, worker, System.Array[IMemoryConsumer]([Empty()]), None, None)
    consumers.Failed += lambda _, args: failed.append(args.Exception.Message)
    consumers.Start()
    until(
        lambda: (
            failed
            or any(one.ConsumerId == "empty" for one in wait(worker.Memory.GetConsumersAsync()).Consumers)
        )
    )
    assert failed == []
    wait(consumers.DisposeAsync())
    wait(worker.DisposeAsync())


def test_one_that_hangs_holds_up_no_other(load: Load) -> None:
    """The others are renewed, and the host's end does not wait for it for ever."""
    load(HOSTING, TESTING)
    import System
    from MemoryWorker.Client import IMemoryConsumer, MemoryConsumers
    from MemoryWorker.Hosting import MemoryCacheConsumer, MemoryCacheConsumerOptions
    from MemoryWorker.Testing import InMemoryWorker
    from Microsoft.Extensions.Caching.Memory import MemoryCache, MemoryCacheOptions

    begun, end = threading.Event(), threading.Event()

    class Hanging(IMemoryConsumer):  # type: ignore[misc]  # a type of .NET's
        __namespace__ = "Tests.Consumers"

        def get_Id(self) -> str:
            return "hanging"

        def Describe(self) -> Any:
            begun.set()
            end.wait()
            return caches[0].Describe()

    options = MemoryCacheOptions()
    options.SizeLimit, options.TrackStatistics = 100, True
    caches = [
        MemoryCacheConsumer(name, MemoryCache(options), options, MemoryCacheConsumerOptions())
        for name in ("first", "last")
    ]
    clock, worker = standing(), InMemoryWorker(None, None, None)
    all_of_them = System.Array[IMemoryConsumer]([caches[0], Hanging(), caches[1]])
    consumers = MemoryConsumers(worker.Memory, worker, all_of_them, None, clock)

    def registered() -> list[str]:
        made = (one for one in worker.Requests if one.Action == "memory.register_consumer")
        return [one.Data.ConsumerId for one in made]

    consumers.Start()
    assert begun.wait(30)
    for number in range(1, 4):
        until(lambda number=number: min(map(registered().count, ("first", "last"))) >= number)
        consumers.Renew()
    ended = consumers.DisposeAsync().AsTask()
    until(lambda: clock.move(System.TimeSpan.FromSeconds(1)) or ended.IsCompleted)
    assert "hanging" not in registered()
    end.set()
    wait(ended)
    wait(worker.DisposeAsync())
