using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>A consumer that was asked, until it answers.</summary>
internal sealed class Question(PlannedRelease wanted, HeldConsumer consumer)
{
    public PlannedRelease Wanted { get; } = wanted;

    public HeldConsumer Consumer { get; } = consumer;

    public TaskCompletionSource Answered { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public long ClaimedBytes { get; set; }
}
