namespace MemoryWorker.Client.Protocol;

/// <summary>A row that is bound to what the action takes and what it answers.</summary>
/// <typeparam name="TParams">What is sent as <c>data</c>.</typeparam>
/// <typeparam name="TResult">What comes back as <c>data</c>.</typeparam>
public sealed record WireAction<TParams, TResult>(string Name, bool Changes, bool IsControl)
    : WireAction(Name, Changes, IsControl)
    where TParams : class, IWireRecord<TParams>
    where TResult : class, IWireRecord<TResult>;
