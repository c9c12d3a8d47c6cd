namespace MemoryWorker.Client.Protocol;

/// <summary>One row of the contract's table: an action's name and how it is to be treated.</summary>
/// <param name="Name">As it is sent.</param>
/// <param name="Changes">Whether it changes something; repeated with the same request id it is not run again.</param>
/// <param name="IsControl">Whether it is answered also while the worker is overloaded or draining.</param>
public abstract record WireAction(string Name, bool Changes, bool IsControl)
{
    /// <summary>Names an action that takes and answers plain JSON: a plugin's, or one newer than this library.</summary>
    /// <param name="name">One that the contract's table does not know counts as a change.</param>
    public static WireAction<JsonData, JsonData> Plain(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        var row = WireActions.Find(name);
        return new(name, row?.Changes ?? true, row?.IsControl ?? false);
    }
}
