using System.Diagnostics.CodeAnalysis;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryCopyResponse : MemoryTransferResponse
{
    /// <summary>Makes one; what is required is assigned in the initializer.</summary>
    public PostMemoryCopyResponse()
    {
    }

    [SetsRequiredMembers]
    internal PostMemoryCopyResponse(TransferResult wire)
        : base(wire)
    {
    }
}
