namespace ApiResponseHost;

/// <summary>Commands to the worker by name, as those hosts send them.</summary>
public interface IPythonWorkerService
{
    /// <summary>
    /// Carries a command out. <c>object</c> (or <c>dynamic</c>) as the answer's type is a <see cref="WorkerAnswer"/>, which holds
    /// a refusal as well; of any other type the answer is read, and a refusal is thrown.
    /// </summary>
    /// <param name="type">Which worker.</param>
    /// <param name="command">An action: <c>memory.allocate</c>, <c>allocate</c>, <c>memory_allocate</c>, <c>allocate_memory</c>.</param>
    /// <param name="request">Its data, in the protocol's fields; or a whole request with <c>action</c> and <c>data</c>.</param>
    /// <param name="cancellationToken">Cancels the work itself.</param>
    /// <exception cref="MemoryWorker.Client.WorkerException">The worker refused, or could not answer.</exception>
    /// <exception cref="NotMappedException">No action of the worker is meant.</exception>
    Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken = default);

    /// <summary>The same, with the reply as JSON text, a refusal as well: <c>{"success": false, "error": …}</c>.</summary>
    Task<string> ExecuteRawAsync(
        PythonWorkerTypes type, string command, object? request = null, CancellationToken cancellationToken = default);

    /// <summary>Whether such a worker answers now.</summary>
    Task<bool> IsWorkerAvailableAsync(PythonWorkerTypes type);

    /// <summary>Where the worker stands, by its type.</summary>
    Task<Dictionary<string, object>> GetWorkerHealthAsync();

    /// <summary>Starts the worker now; false where none could be started.</summary>
    Task<bool> InitializeAsync();

    /// <summary>Ends the worker and frees what it holds. It is not started again.</summary>
    Task ShutdownAsync();
}
