using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Calls in a host's own types, over any <see cref="IPythonWorkerService"/>.</summary>
public static class PythonWorkerServiceExtensions
{
    /// <summary>
    /// Asks for an action whose types are this host's: a plugin's, or one newer than this library. Deadline, progress,
    /// cancellation, retries and telemetry are those of every call. Nothing is looked up by reflection.
    /// </summary>
    /// <typeparam name="TIn">What is sent as <c>data</c>: JSON must be able to say it as an object.</typeparam>
    /// <typeparam name="TOut">What is answered as <c>data</c>.</typeparam>
    /// <param name="worker">Who is asked.</param>
    /// <param name="action">As the plugin names it. One that the contract does not know counts as a change unless <see cref="WorkerCallOptions.IsRead"/>.</param>
    /// <param name="value">Written once, before the call returns; what becomes of it afterwards changes nothing.</param>
    /// <param name="takes">How <paramref name="value"/> is written: <c>MyJsonContext.Default.MyRequest</c>.</param>
    /// <param name="answers">How the answer is read.</param>
    /// <param name="options">How this call differs from the others; null where it does not.</param>
    /// <param name="cancellationToken">Cancels the work itself, not only the wait.</param>
    /// <exception cref="ArgumentException"><paramref name="value"/> is not written as a JSON object.</exception>
    /// <exception cref="WorkerProtocolException">The answer is no <typeparamref name="TOut"/>; the action was carried out.</exception>
    /// <inheritdoc cref="IPythonWorkerService.ExecuteAsync" path="/exception"/>
    public static Task<TOut> CallAsync<TIn, TOut>(
        this IPythonWorkerService worker,
        string action,
        TIn value,
        JsonTypeInfo<TIn> takes,
        JsonTypeInfo<TOut> answers,
        WorkerCallOptions? options = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(worker);
        ArgumentNullException.ThrowIfNull(takes);
        ArgumentNullException.ThrowIfNull(answers);
        var row = WireAction.Plain(action);
        var data = JsonSerializer.SerializeToElement(value, takes);
        return data.ValueKind == JsonValueKind.Object
            ? AskAsync()
            : throw new ArgumentException($"{action}: data is a JSON object, and this is {data.ValueKind}", nameof(value));

        async Task<TOut> AskAsync()
        {
            var answer = await worker.ExecuteAsync(row, new JsonData(data), options, cancellationToken).ConfigureAwait(false);
            try
            {
                return answer.Value.Deserialize(answers)
                    ?? throw new JsonException($"it is null, and {typeof(TOut)} was expected");
            }
            catch (Exception problem) when (problem is JsonException or NotSupportedException or InvalidOperationException)
            {
                var failure = new WorkerFailure { Executed = Executed.Yes, ProcessId = worker.Snapshot.ProcessId };
                throw new WorkerProtocolException($"{action}: the answer could not be read: {problem.Message}", failure, problem);
            }
        }
    }
}
