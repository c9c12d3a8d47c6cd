namespace MemoryWorker.Client;

/// <summary>
/// There is no Python that the worker could run in: thrown before anything is started, and by a start that was to find or make
/// one (<see cref="PythonWorkerOptions.Python"/>). The message is one sentence, with the remedy.
/// </summary>
public sealed class PythonEnvironmentException : WorkerStartException
{
    /// <summary>Says what is wrong, and what mends it.</summary>
    public PythonEnvironmentException(PythonEnvironmentProblem problem, string message, WorkerFailure? failure = null)
        : base("python_environment", message, failure ?? new(), null)
    {
        Problem = problem;
        Summary = "the worker has no Python that it could run in";
        ForHost = message;
    }

    /// <summary>What is wrong.</summary>
    public PythonEnvironmentProblem Problem { get; }
}
