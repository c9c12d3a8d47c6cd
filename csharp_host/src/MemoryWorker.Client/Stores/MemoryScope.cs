namespace MemoryWorker.Client;

/// <summary>Whose a store is: a user and one of their projects. Nothing that is done in one scope shows in another.</summary>
/// <param name="UserId">The user.</param>
/// <param name="ProjectId">The project.</param>
public sealed record MemoryScope(string UserId = "default_user", string ProjectId = "default")
{
    /// <summary>The scope of a request that names none.</summary>
    public static MemoryScope Default { get; } = new();
}
