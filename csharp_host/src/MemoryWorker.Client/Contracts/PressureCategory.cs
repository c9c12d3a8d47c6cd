namespace MemoryWorker.Client;

/// <summary>How close a device is to running out, in a word.</summary>
public enum PressureCategory
{
    /// <summary>There is headroom.</summary>
    Low,

    /// <summary>There is headroom, but less than usual.</summary>
    Moderate,

    /// <summary>Large requests will fail soon.</summary>
    High,

    /// <summary>Requests fail, or are about to.</summary>
    Critical,
}
