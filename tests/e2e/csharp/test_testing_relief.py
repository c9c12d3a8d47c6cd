"""What makes headroom, and what is told of it: the same by the worker itself and by the one in memory."""

import contextlib
import io
import threading
from typing import Any, Self

import pytest
from prometheus_client.openmetrics.parser import text_fd_to_metric_families

from tests.e2e.csharp.clock import standing
from tests.e2e.csharp.host import make, real, until, wait
from tests.e2e.csharp.in_memory import DEVICE, MIB, TESTING, allocate, memory, refusal, worker
from tests.rigs.dotnet import runtime

__all__ = ["memory", "real", "worker"]


def plan(memory: Any, **ways: int) -> Any:
    """Ask which of several sizes fits, in this order."""
    from MemoryWorker.Client.Protocol import PlanCandidate, PlanParams
    from System import Array

    asked = [make(PlanCandidate, Name=name, RequiredBytes=size) for name, size in ways.items()]
    return wait(memory.PlanAsync(make(PlanParams, Candidates=Array[PlanCandidate](asked))))


def test_a_plan_says_what_fits_and_is_taken_up_once(memory: Any) -> None:
    """The first that fits is chosen, the others say what they lack; its plan is allocated exactly, or is stale."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    allocate(memory, 40 * MIB)
    planned = plan(memory, large=32 * MIB, small=16 * MIB)
    assert (planned.Selected, planned.PlanExpiresInMs) == ("small", 60_000)
    seen = [(one.Name, one.Fits, one.ShortfallBytes, one.RequiredBytes) for one in planned.Candidates]
    assert seen == [("large", False, 8 * MIB, 32 * MIB), ("small", True, 0, 16 * MIB)]
    other = make(PostMemoryAllocateRequest, SizeBytes=MIB, PlanId=planned.PlanId)
    code, details, _ = refusal(memory.PostMemoryAllocateAsync(other))
    assert (code, details["errors"][0]["path"]) == ("invalid_request", "data.plan_id")
    made = allocate(memory, 16 * MIB, PlanId=planned.PlanId)
    assert (made.DeviceId, made.AvailableBytes) == (DEVICE, 8 * MIB)
    again = make(PostMemoryAllocateRequest, SizeBytes=16 * MIB, PlanId=planned.PlanId)
    stale = ("plan_stale", {"plan_id": planned.PlanId, "reason": "not_known"}, True)
    assert refusal(memory.PostMemoryAllocateAsync(again)) == stale
    late = plan(memory, rest=8 * MIB).PlanId
    allocate(memory, 4096)
    again = make(PostMemoryAllocateRequest, SizeBytes=8 * MIB, PlanId=late)
    assert refusal(memory.PostMemoryAllocateAsync(again)) == ("plan_stale", {"plan_id": late}, True)
    none = plan(memory, large=32 * MIB)
    assert (none.Selected, none.PlanId, none.Candidates[0].ShortfallBytes) == (None, None, 24 * MIB + 4096)


class Cache:
    """A host's memory in pieces of 8 MiB, on a worker: it gives back what it is asked for, and says so."""

    def __init__(self, memory: Any, pieces: int) -> None:
        from MemoryWorker.Client.Protocol import ConsumerOffer, EventName, RegisterConsumerParams
        from System import Array
        from System.Threading import CancellationTokenSource

        self._memory = memory
        self._pieces = [allocate(memory, 8 * MIB, Owner="cache").AllocationId for _ in range(pieces)]
        offer = make(ConsumerOffer, Bytes=(pieces - 1) * 8 * MIB, CostMs=float(pieces - 1))
        held = {"HeldBytes": pieces * 8 * MIB, "FloorBytes": 8 * MIB, "DeviceId": DEVICE, "Kind": "cache"}
        offers = Array[ConsumerOffer]([offer])
        asked = make(RegisterConsumerParams, ConsumerId="cache", Offers=offers, **held)
        assert wait(memory.RegisterConsumerAsync(asked)).Created
        self.requests: list[Any] = []
        self._stop = CancellationTokenSource()
        names = Array[EventName]([EventName.MemoryReleaseRequested])
        self._stream = memory.GetMemoryEventsAsync(names, self._stop.Token)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.Cancel()
        self._thread.join()

    def _listen(self) -> None:
        import System

        with contextlib.suppress(System.OperationCanceledException):
            for one in runtime.iterate(self._stream, cancellation=self._stop.Token):
                self.requests.append(one.Data)
                self.release(one.Data.Bytes)

    def release(self, wanted: int) -> None:
        pieces = -(-wanted // (8 * MIB))
        for _ in range(pieces):
            wait(self._memory.DeleteMemoryAllocationAsync(self._pieces.pop()))
        wait(self._memory.ConfirmReleasedAsync("cache", pieces * 8 * MIB))


def test_a_consumer_makes_headroom(memory: Any) -> None:
    """Whoever listens is asked for what is missing, no more; the answer says what came back, and the table, too."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    cache = Cache(memory, 7)
    in_vain = make(PostMemoryAllocateRequest, SizeBytes=16 * MIB, MakeRoom=True)
    assert refusal(memory.PostMemoryAllocateAsync(in_vain))[0] == "out_of_memory"
    (unheard,) = plan(memory, more=16 * MIB).Candidates[0].ConsumersKept
    assert (unheard.ConsumerId, unheard.PriceMsPerMib, unheard.Reason) == (
        *("cache", None, "stays: nobody listens for memory.release_requested"),
    )
    with cache:
        until(lambda: plan(memory, more=16 * MIB).Selected == "more")  # from here on it is heard
        (way,) = plan(memory, more=16 * MIB).Candidates
        (release,) = way.Releases
        assert (release.ConsumerId, release.ExpectedBytes, release.CostMs) == ("cache", 8 * MIB, 1.0)
        assert not way.ConsumersKept.Count
        (kept,) = plan(memory, more=64 * MIB).Candidates[0].ConsumersKept
        assert (kept.ConsumerId, kept.PriceMsPerMib, kept.Reason) == (
            *("cache", 0.125, f"stays: {56 * MIB} bytes are needed and at most {48 * MIB} can be had"),
        )
        made = allocate(memory, 16 * MIB, MakeRoom=True)
        (gave,) = made.Released
        assert (gave.ConsumerId, gave.Kind, gave.ClaimedBytes, gave.ReturnedBytes, gave.CostMs) == (
            *("cache", "cache", 8 * MIB, 8 * MIB, 1.0),
        )
        wait(memory.DeleteMemoryAllocationAsync(made.AllocationId))
        planned = plan(memory, more=32 * MIB)
        assert allocate(memory, 32 * MIB, PlanId=planned.PlanId).Released[0].ClaimedBytes == 16 * MIB
        assert plan(memory, more=41 * MIB).Candidates[0].ShortfallBytes == 17 * MIB
    assert [(one.Bytes, one.LimitBytes) for one in cache.requests] == [
        (8 * MIB, 48 * MIB),
        (16 * MIB, 32 * MIB),
    ]
    (one,) = wait(memory.GetConsumersAsync(DEVICE, "cache")).Consumers
    assert (one.HeldBytes, one.LimitBytes, one.ClaimedBytes, one.ReturnedBytes, one.PriceMsPerMib) == (
        *(32 * MIB, 32 * MIB, 24 * MIB, 24 * MIB, 0.125),
    )
    assert wait(memory.UnregisterConsumerAsync("cache")).Existed
    assert not wait(memory.UnregisterConsumerAsync("cache")).Existed
    unknown = ("consumer_not_found", {"consumer_id": "cache"}, False)
    assert refusal(memory.ConfirmReleasedAsync("cache", 0)) == unknown


def test_optimizing_asks_for_what_makes_a_device_calm(memory: Any) -> None:
    """A dry run says what it would be; then consumers give as much as the pressure is too high, and no model goes."""
    from MemoryWorker.Client import PostMemoryOptimizeRequest
    from MemoryWorker.Client.Protocol import OptimizationLevel, PressureCategory

    with Cache(memory, 7):
        until(lambda: plan(memory, more=16 * MIB).Selected == "more")
        asked = make(PostMemoryOptimizeRequest, DeviceId=DEVICE, OptimizationLevel=OptimizationLevel.Normal)
        asked.DryRun = True
        would = wait(memory.PostMemoryOptimizeAsync(asked))
        assert (would.ReturnedBytes, would.PressureAfter) == (0, PressureCategory.Moderate)
        assert [one.ReturnedBytes for one in would.Released] == [None]
        assert list(would.ConsumersKept) == []
        careful = make(
            PostMemoryOptimizeRequest, DeviceId=DEVICE, OptimizationLevel=OptimizationLevel.Conservative
        )
        (kept,) = wait(memory.PostMemoryOptimizeAsync(careful)).ConsumersKept
        assert kept.ConsumerId == "cache"
        assert kept.Reason.startswith("stays: 8.")
        assert kept.Reason.endswith(
            " MiB would be asked for, but conservative asks for nothing that has to be rebuilt"
        )
        wanted = would.Released[0].ClaimedBytes
        assert 8 * MIB < wanted < 9 * MIB
        asked.DryRun = False
        done = wait(memory.PostMemoryOptimizeAsync(asked))
        (kept,) = wait(memory.PostMemoryOptimizeAsync(asked)).ConsumersKept
        assert (kept.ConsumerId, kept.Reason) == ("cache", "stays: nothing has to be freed")
    assert [(one.ConsumerId, one.ClaimedBytes, one.ReturnedBytes) for one in done.Released] == [
        ("cache", 16 * MIB, 16 * MIB)
    ]
    assert (done.ReturnedBytes, list(done.Steps)) == (16 * MIB, [])
    assert (done.PressureBefore, done.PressureAfter) == (PressureCategory.Moderate, PressureCategory.Low)


def test_what_was_done_is_told(memory: Any) -> None:
    """Analytics count calls and their refusals; metrics are OpenMetrics; there is nothing to join or recommend."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, PostMemoryDefragmentRequest

    allocate(memory, MIB)
    refusal(memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=128 * MIB)))
    actions = wait(memory.GetMemoryAnalyticsAsync(DEVICE)).Actions
    counted = {one.Action: (one.Count, one.Errors) for one in actions}
    assert counted["memory.allocate"] == (2, 1)
    metrics = wait(memory.GetMetricsAsync())
    assert metrics.ContentType.startswith("application/openmetrics-text")
    families = {one.name: one for one in text_fd_to_metric_families(io.StringIO(metrics.Text))}
    rows = families["memory_worker_device_allocated_bytes"].samples
    assert {row.labels["device_id"]: row.value for row in rows}[DEVICE] == MIB
    joined = wait(memory.PostMemoryDefragmentAsync(make(PostMemoryDefragmentRequest, DeviceId=DEVICE)))
    assert (joined.ReturnedBytes, joined.AllocationsMoved) == (0, 0)
    assert list(wait(memory.GetMemoryOptimizationAsync(DEVICE)).Recommendations) == []


# ---- what only the one in memory does: it has models ------------------------------------------------


def test_models_that_are_idle_go(load: Any) -> None:
    """After a minute by the test's clock a model is recommended by name, and optimizing unloads it; analytics tell."""
    load(TESTING)
    import System
    from MemoryWorker.Client import PostMemoryOptimizeRequest
    from MemoryWorker.Client.Protocol import LoadModelParams, OptimizationLevel
    from MemoryWorker.Testing import FakeModel, InMemoryWorker

    clock = standing()
    models = System.Array[FakeModel]([FakeModel("small", 8 * MIB, None), FakeModel("large", 48 * MIB, None)])
    memory = InMemoryWorker(None, models, clock).Memory
    wait(memory.LoadModelAsync(make(LoadModelParams, ModelId="small")))
    clock.move(System.TimeSpan.FromMinutes(2))
    wait(memory.LoadModelAsync(make(LoadModelParams, ModelId="large")))
    rows = wait(memory.GetMemoryOptimizationAsync()).Recommendations
    assert [(one.Action, one.ExpectedFreedBytes) for one in rows] == [
        ("memory.unload_model", 8 * MIB),
        ("memory.model_optimize", 48 * MIB),
    ]
    asked = make(PostMemoryOptimizeRequest, OptimizationLevel=OptimizationLevel.Normal)
    done = wait(memory.PostMemoryOptimizeAsync(asked))
    assert [one.ReturnedBytes for one in done.Steps] == [8 * MIB]
    (kept,) = done.ModelsKept
    why = "stays: it was used 0 ms ago, and normal unloads what was not for 60000 ms"
    assert (kept.ModelId, kept.Reason) == ("large", why)
    (gone,) = wait(memory.GetMemoryAnalyticsAsync()).Evictions
    assert (gone.ModelId, gone.FreedBytes) == ("small", 8 * MIB)


def test_a_plan_for_a_model_names_what_goes(worker: Any) -> None:
    """It unloads exactly what it said, and is stale once that was used."""
    from MemoryWorker.Client.Protocol import LoadModelParams, PlanCandidate, PlanParams
    from System import Array

    wait(worker.Memory.LoadModelAsync(make(LoadModelParams, ModelId="small")))
    allocate(worker.Memory, 16 * MIB)
    way = make(PlanCandidate, Name="large", ModelId="large")
    asked = make(PlanParams, Candidates=Array[PlanCandidate]([way]))
    planned = wait(worker.Memory.PlanAsync(asked))
    assert [one.ModelId for one in planned.Candidates[0].Evictions] == ["small"]
    wait(worker.Memory.LoadModelAsync(make(LoadModelParams, ModelId="small")))
    load = make(LoadModelParams, ModelId="large", PlanId=planned.PlanId)
    assert refusal(worker.Memory.LoadModelAsync(load))[0] == "plan_stale"
    load.PlanId = wait(worker.Memory.PlanAsync(asked)).PlanId
    assert [one.ModelId for one in wait(worker.Memory.LoadModelAsync(load)).ModelsUnloaded] == ["small"]


def test_a_kill_ends_what_waits_for_a_consumer(worker: Any) -> None:
    """The call that had it asked ends as one to a worker that died, at once; the successor knows no consumer."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, WorkerExitedException

    class Fatal(Cache):
        def release(self, wanted: int) -> None:
            worker.Kill()

    with Fatal(worker.Memory, 7):
        until(lambda: plan(worker.Memory, more=16 * MIB).Selected == "more")
        asked = make(PostMemoryAllocateRequest, SizeBytes=16 * MIB, MakeRoom=True)
        with pytest.raises(WorkerExitedException, match="killed by a test"):
            wait(worker.Memory.PostMemoryAllocateAsync(asked))
    assert list(wait(worker.Memory.GetConsumersAsync()).Consumers) == []
    assert allocate(worker.Memory, 16 * MIB).AvailableBytes == 48 * MIB
