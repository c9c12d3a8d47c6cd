using System.Diagnostics.CodeAnalysis;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record GetMemoryTransferResponse : MemoryTransferResponse
{
    /// <summary>Makes one; what is required is assigned in the initializer.</summary>
    public GetMemoryTransferResponse()
    {
    }

    [SetsRequiredMembers]
    internal GetMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}
