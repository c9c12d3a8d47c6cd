namespace MemoryWorker.Client;

/// <summary>How far a transfer has come.</summary>
/// <param name="CompletedBytes">Done.</param>
/// <param name="TotalBytes">To be done in all.</param>
public readonly record struct TransferProgress(long CompletedBytes, long TotalBytes)
{
    /// <summary>0 to 1.</summary>
    public double Fraction => TotalBytes == 0 ? 1 : (double)CompletedBytes / TotalBytes;
}
