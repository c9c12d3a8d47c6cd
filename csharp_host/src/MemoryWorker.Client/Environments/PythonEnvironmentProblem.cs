namespace MemoryWorker.Client;

/// <summary>What keeps the worker from a Python to run in.</summary>
public enum PythonEnvironmentProblem
{
    /// <summary>There is no Python where it was looked for.</summary>
    NotFound,

    /// <summary>There are Pythons, and all are older than 3.11.</summary>
    TooOld,

    /// <summary>The worker itself is not installed in the environment, or in another version.</summary>
    WorkerMissing,

    /// <summary>A package that the worker needs is missing, or older than it needs.</summary>
    DependencyMissing,

    /// <summary>Packages of somebody else's are found under the names of the worker's own.</summary>
    NameTaken,

    /// <summary>A folder that was named is not there.</summary>
    FolderMissing,

    /// <summary>The environment could not be made.</summary>
    NotMade,

    /// <summary>An optional part was asked for that the worker does not have.</summary>
    ExtraUnknown,
}
