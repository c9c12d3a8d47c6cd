using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryTransferResponse : MemoryTransferResponse
{
    internal PostMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}
