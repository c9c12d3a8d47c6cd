using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryCopyResponse : MemoryTransferResponse
{
    internal PostMemoryCopyResponse(TransferResult wire)
        : base(wire)
    {
    }
}
