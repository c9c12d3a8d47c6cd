using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    /// <summary>A refusal that a test asks for, as the worker would make it of this request.</summary>
    public WorkerRequestException Refusal(ErrorCode code, string action, string reason, JsonElement data)
    {
        lock (_gate)
        {
            var device = devices.FirstOrDefault(one => one.DeviceId == Text(data, "device_id", "destination_device_id")) ?? devices[0];
            return new(code, action, reason, Details.Of(DetailsOf(code, action, device, reason, data)), new WorkerFailure
            {
                Executed = code is ErrorCode.DeviceUnavailable or ErrorCode.InternalError ? Executed.Unknown : Executed.No,
                Retryable = code is ErrorCode.DeviceUnavailable or ErrorCode.ModelBusy or ErrorCode.PlanStale or ErrorCode.OutOfMemory
                    or ErrorCode.ChecksumMismatch or ErrorCode.Cancelled or ErrorCode.DeadlineExceeded or ErrorCode.Overloaded
                    or ErrorCode.ShuttingDown,
            });
        }
    }

    private Dictionary<string, object?> DetailsOf(ErrorCode code, string action, FakeDevice device, string reason, JsonElement data) =>
        code switch
        {
            ErrorCode.LimitExceeded when action == StoreActions.Put => new() { ["entry_bytes"] = null, ["limit_bytes"] = null },
            ErrorCode.OutOfMemory or ErrorCode.LimitExceeded => new()
            {
                ["device_id"] = device.DeviceId,
                ["requested_bytes"] = Requested(data),
                ["available_bytes"] = Headroom(device),
                ["evictable_bytes"] = 0L,
            },
            ErrorCode.DeviceNotFound => new()
            {
                ["device_id"] = Text(data, "device_id", "destination_device_id"),
                ["known_devices"] = devices.Select(one => one.DeviceId).ToArray(),
            },
            ErrorCode.DeviceUnavailable => new() { ["device_id"] = device.DeviceId, ["state"] = Lost(device.State).ToWord() },
            ErrorCode.AllocationNotFound => new()
            {
                ["allocation_id"] = Text(data, "allocation_id", "source_allocation_id"),
                ["reason"] = "already_freed",
            },
            ErrorCode.ModelNotFound => new()
            {
                ["model_id"] = Text(data, "model_id"),
                ["known_models"] = models.Select(one => one.ModelId).ToArray(),
            },
            ErrorCode.ModelBusy => new() { ["model_id"] = Text(data, "model_id"), ["cause"] = "in_use" },
            ErrorCode.ModelLoadFailed => new() { ["model_id"] = Text(data, "model_id"), ["path"] = null, ["cause"] = reason },
            ErrorCode.ConsumerNotFound => new() { ["consumer_id"] = Text(data, "consumer_id") },
            ErrorCode.StoreNotFound => new()
            {
                ["store"] = Text(data, "store"),
                ["user_id"] = Text(data, "user_id") ?? MemoryScope.Default.UserId,
                ["project_id"] = Text(data, "project_id") ?? MemoryScope.Default.ProjectId,
            },
            ErrorCode.NodeNotFound => new() { ["node"] = Text(data, "node"), ["known_nodes"] = Array.Empty<string>() },
            ErrorCode.OperationNotFound => new() { ["operation_id"] = Text(data, "operation_id") },
            ErrorCode.PlanStale => new() { ["plan_id"] = Text(data, "plan_id") },
            ErrorCode.InvalidRequest => new()
            {
                ["errors"] = new[] { new Dictionary<string, object?> { ["path"] = "data", ["message"] = reason } },
            },
            ErrorCode.UnknownAction => UnknownAction(action),
            ErrorCode.DuplicateRequestId => new() { ["request_id"] = null },
            ErrorCode.FrameTooLarge => new() { ["max_frame_bytes"] = MaxFrameBytes },
            ErrorCode.ChecksumMismatch => new()
            {
                ["transfer_id"] = NextTransfer(),
                ["expected"] = $"sha256:{new string('0', 64)}",
                ["found"] = $"sha256:{new string('f', 64)}",
            },
            ErrorCode.Cancelled or ErrorCode.DeadlineExceeded when action == MemoryActions.Transfer => new() { ["transfer_id"] = NextTransfer() },
            ErrorCode.InternalError => new() { ["error_id"] = Guid.NewGuid().ToString("N") },
            ErrorCode.Unsupported when data.TryGetProperty("store", out _) => Asked(data, "store", "kind"),
            ErrorCode.Unsupported => Asked(data, "device_id", "memory_type"),
            ErrorCode.Overloaded => new() { ["max_inflight"] = MaxInflight, ["retry_after_ms"] = 10L },
            _ => [],
        };

    private string NextTransfer() => ids.Make("transfer", _transfers.Count + 1);

    /// <summary>What a device that is said to be gone is: its own state, unless that is to be had.</summary>
    private static DeviceState Lost(DeviceState state) => state == DeviceState.Available ? DeviceState.Lost : state;

    /// <summary>What a request says of what can't be done.</summary>
    private static Dictionary<string, object?> Asked(JsonElement data, params string[] names) =>
        names.ToDictionary(one => one, one => (object?)Text(data, one));

    private static Dictionary<string, object?> UnknownAction(string action) => new()
    {
        ["action"] = action,
        ["known_actions"] = WireActions.All.Select(one => one.Name).Order(StringComparer.Ordinal).ToArray(),
        ["nearest"] = null,
    };

    /// <summary>What is asked for: bytes, a model's, or those of what is copied.</summary>
    private long? Requested(JsonElement data) =>
        data.TryGetProperty("size_bytes", out var size) && size.TryGetInt64(out var bytes) ? bytes
        : Text(data, "model_id") is { } modelId ? models.FirstOrDefault(one => one.ModelId == modelId)?.SizeBytes
        : Text(data, "source_allocation_id") is { } source ? FindAllocation(ids.Complete(source))?.SizeBytes
        : null;

    private static string? Text(JsonElement data, params string[] names) => names
        .Select(name => data.TryGetProperty(name, out var found) && found.ValueKind == JsonValueKind.String ? found.GetString() : null)
        .FirstOrDefault(one => one is not null);
}
