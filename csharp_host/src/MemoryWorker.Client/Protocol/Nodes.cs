namespace MemoryWorker.Client.Protocol;

/// <summary>The nodes of a fleet: <c>node-1/cuda:0</c> is a device of <c>node-1</c>, <c>node-1/alloc-7</c> an allocation there.</summary>
public static class Nodes
{
    /// <summary>Between a node and what is on it.</summary>
    public const char Separator = '/';

    /// <summary>The node that an id of a device, an allocation or a transfer names; null where the worker is no fleet.</summary>
    public static string? NodeOf(string id)
    {
        ArgumentNullException.ThrowIfNull(id);
        return id.IndexOf(Separator, StringComparison.Ordinal) is var at and >= 0 ? id[..at] : null;
    }

    /// <summary>The node that a device is of; null where the worker is no fleet.</summary>
    public static string? NodeId(this DeviceStatus device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return NodeOf(device.DeviceId);
    }

    /// <summary>The node that a device is of; null where the worker is no fleet.</summary>
    public static string? NodeId(this DevicePressure device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return NodeOf(device.DeviceId);
    }
}
