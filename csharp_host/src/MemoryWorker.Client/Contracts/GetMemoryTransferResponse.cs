using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record GetMemoryTransferResponse : MemoryTransferResponse
{
    internal GetMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}
