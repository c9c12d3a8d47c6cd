using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private static readonly TimeSpan Wait = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan LetBe = TimeSpan.FromSeconds(30);

    private readonly List<Question> _open = [];

    /// <summary>What waits for consumers now: it ends with the worker.</summary>
    public IReadOnlyList<TaskCompletionSource> Waiting()
    {
        lock (_gate)
        {
            return [.. _open.Select(one => one.Answered)];
        }
    }

    /// <summary>Asks the consumers that an action needs, waits for their word, and returns what came of it.</summary>
    public async Task<Given> AskAsync(string action, JsonElement data, CancellationToken cancellationToken)
    {
        List<Question> questions;
        Dictionary<FakeDevice, long> before;
        Dictionary<FakeDevice, PressureCategory> levels;
        lock (_gate)
        {
            Expire();
            var (releases, why) = NeededIfAny(action, data);
            questions = [.. releases.Select(one => new Question(one, Find(one.ConsumerId)!))];
            before = Headrooms(questions);
            levels = devices.ToDictionary(one => one, Level);
            _open.AddRange(questions);
            foreach (var one in questions)
            {
                Send(one, why);
            }
        }

        try
        {
            foreach (var one in questions)
            {
                try
                {
                    await one.Answered.Task.WaitAsync(Wait, clock, cancellationToken).ConfigureAwait(false);
                }
                catch (TimeoutException)
                {
                    lock (_gate)
                    {
                        one.Consumer.SilentUntil = clock.GetUtcNow() + LetBe;
                    }
                }
            }
        }
        finally
        {
            lock (_gate)
            {
                _open.RemoveAll(questions.Contains);
            }
        }

        lock (_gate)
        {
            var after = Headrooms(questions);
            var heard = questions.Where(one => one.Answered.Task.IsCompleted);
            return new([.. heard.Select(one => Settle(one, before, after))], levels);
        }
    }

    /// <summary>Nothing is asked for what will be refused: the refusal is the action's own.</summary>
    private (IReadOnlyList<PlannedRelease> Releases, string Why) NeededIfAny(string action, JsonElement data)
    {
        try
        {
            return Needed(action, data);
        }
        catch (WorkerRequestException)
        {
            return ([], string.Empty);
        }
    }

    /// <summary>What an action has consumers asked for, and what they are told.</summary>
    private (IReadOnlyList<PlannedRelease> Releases, string Why) Needed(string action, JsonElement data)
    {
        switch (action)
        {
            case MemoryActions.Allocate:
                var allocate = WireText.FromElement<AllocateParams>(data);
                return NeededFor(allocate.PlanId, allocate.DeviceId, allocate.SizeBytes, null, allocate.MakeRoom, action);
            case MemoryActions.LoadModel:
                var load = WireText.FromElement<LoadModelParams>(data);
                var model = Model(load.ModelId, action);
                var size = _loaded.ContainsKey(model.ModelId) ? 0 : model.SizeBytes;
                return NeededFor(load.PlanId, load.DeviceId ?? model.DeviceId, size, model.ModelId, load.MakeRoom, action);
            case MemoryActions.Optimize:
                var optimize = WireText.FromElement<OptimizeParams>(data);
                return (optimize.DryRun ? [] : ToRelease(optimize), "memory is wanted back, as asked");
            default:
                return ([], string.Empty);
        }
    }

    private (IReadOnlyList<PlannedRelease> Releases, string Why) NeededFor(
        string? planId, string? deviceId, long bytes, string? modelId, bool makeRoom, string action)
    {
        if (planId is not null)
        {
            var plan = PlanFor(planId, deviceId, bytes, modelId, action);
            Check(plan, plan.Needed.Releases.Sum(one => one.ExpectedBytes), action);
            return (plan.Needed.Releases, $"{plan.RequiredBytes} bytes are needed on {plan.Device.DeviceId}");
        }

        var device = Device(deviceId, action);
        return (HeadroomFor(device, bytes, makeRoom).Releases, $"{bytes} bytes are needed on {device.DeviceId}");
    }

    private void Send(Question one, string why)
    {
        var (consumer, bytes) = (one.Consumer, one.Wanted.ExpectedBytes);
        var limit = Math.Max(0, consumer.HeldBytes - bytes);
        consumer.LimitBytes = Math.Min(consumer.LimitBytes ?? limit, limit);
        var data = new ReleaseRequestedData
        {
            ConsumerId = one.Wanted.ConsumerId,
            Bytes = bytes,
            LimitBytes = consumer.LimitBytes.Value,
            Reason = $"{why}; {one.Wanted.Reason}",
            WaitMs = (long)Wait.TotalMilliseconds,
        };
        readers.Publish(new ReleaseRequestedEvent(0, 0, data), processId);
    }

    /// <summary>Has a consumer's word reach all that wait for it.</summary>
    private void Hear(HeldConsumer consumer, long bytes)
    {
        foreach (var one in _open.Where(one => one.Consumer == consumer && !one.Answered.Task.IsCompleted))
        {
            one.ClaimedBytes = bytes;
            one.Answered.TrySetResult();
        }
    }

    /// <summary>Says what a consumer gave: by its word, and by the headroom that is there since.</summary>
    private static ReleasedMemory Settle(
        Question one, Dictionary<FakeDevice, long> before, Dictionary<FakeDevice, long> after)
    {
        var (device, claimed) = (one.Consumer.Device, one.ClaimedBytes);
        var returned = Math.Clamp(after[device] - before[device], 0, claimed);
        before[device] += returned;
        one.Consumer.ClaimedBytes += claimed;
        one.Consumer.ReturnedBytes += returned;
        return new()
        {
            ConsumerId = one.Wanted.ConsumerId,
            Kind = one.Wanted.Kind,
            ClaimedBytes = claimed,
            ReturnedBytes = returned,
            CostMs = one.Wanted.CostMs * Math.Min(1, (double)claimed / one.Wanted.ExpectedBytes),
            Reason = one.Wanted.Reason,
        };
    }

    private Dictionary<FakeDevice, long> Headrooms(List<Question> questions) =>
        questions.Select(one => one.Consumer.Device).Distinct().ToDictionary(one => one, Headroom);
}
