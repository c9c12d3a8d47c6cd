namespace MemoryWorker.Client.Transport;

/// <summary>Ids that no two requests of a host share.</summary>
internal sealed class RequestIds
{
    private readonly string _prefix = Guid.NewGuid().ToString("N")[..12] + "-";
    private long _last;

    public string Next() => _prefix + Interlocked.Increment(ref _last).ToString(System.Globalization.CultureInfo.InvariantCulture);
}
