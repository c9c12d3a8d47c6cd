namespace MemoryWorker.Client.Protocol;

/// <summary>One row of the contract's table: an action's name and how it is to be treated.</summary>
/// <param name="Name">As it is sent.</param>
/// <param name="Changes">Whether it changes something; repeated with the same request id it is not run again.</param>
/// <param name="IsControl">Whether it is answered also while the worker is overloaded or draining.</param>
public abstract record WireAction(string Name, bool Changes, bool IsControl);

/// <summary>A row that is bound to what the action takes and what it answers.</summary>
/// <typeparam name="TParams">What is sent as <c>data</c>.</typeparam>
/// <typeparam name="TResult">What comes back as <c>data</c>.</typeparam>
public sealed record WireAction<TParams, TResult>(string Name, bool Changes, bool IsControl)
    : WireAction(Name, Changes, IsControl)
    where TParams : class, IWireRecord<TParams>
    where TResult : class, IWireRecord<TResult>;
