using System.Diagnostics.CodeAnalysis;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryTransferResponse : MemoryTransferResponse
{
    /// <summary>Makes one; what is required is assigned in the initializer.</summary>
    public PostMemoryTransferResponse()
    {
    }

    [SetsRequiredMembers]
    internal PostMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}
