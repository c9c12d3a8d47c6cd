using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="IMemoryStores"/>
public sealed class MemoryStores(IPythonWorkerService worker) : IMemoryStores
{
    /// <inheritdoc/>
    public MemoryStore Store(string name, StoreKind kind, StoreOptions? options = null, MemoryScope? scope = null)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        return new(this, name, kind, options, scope ?? MemoryScope.Default);
    }

    /// <inheritdoc/>
    public Task<StoreOpenResult> OpenAsync(StoreOpenParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StoreOpen, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StorePutResult> PutAsync(StorePutParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StorePut, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StoreGetResult> GetAsync(StoreGetParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StoreGet, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StoreSearchResult> SearchAsync(StoreSearchParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StoreSearch, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StoreLoadFolderResult> LoadFolderAsync(
        StoreLoadFolderParams request, WorkerCallOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        return worker.ExecuteAsync(WireActions.StoreLoadFolder, request, options, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<StoreListResult> ListAsync(StoreListParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StoreList, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StoreDeleteResult> DeleteAsync(StoreDeleteParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.StoreDelete, request, cancellationToken);

    /// <inheritdoc/>
    public Task<StoreClearResult> ClearAsync(
        string store, MemoryScope? scope = null, CancellationToken cancellationToken = default)
    {
        var (user, project) = scope ?? MemoryScope.Default;
        var request = new StoreClearParams { Store = store, UserId = user, ProjectId = project };
        return AskAsync(WireActions.StoreClear, request, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<StoreCloseResult> CloseAsync(
        string store, MemoryScope? scope = null, CancellationToken cancellationToken = default)
    {
        var (user, project) = scope ?? MemoryScope.Default;
        var request = new StoreCloseParams { Store = store, UserId = user, ProjectId = project };
        return AskAsync(WireActions.StoreClose, request, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<StoreDeleteScopeResult> DeleteScopeAsync(
        string userId, string? projectId = null, CancellationToken cancellationToken = default) =>
        AskAsync(
            WireActions.StoreDeleteScope,
            new StoreDeleteScopeParams { UserId = userId, ProjectId = projectId },
            cancellationToken);

    /// <inheritdoc/>
    public Task<StoreStatsResult> GetStatsAsync(
        string? store = null, MemoryScope? scope = null, CancellationToken cancellationToken = default)
    {
        var (user, project) = scope ?? MemoryScope.Default;
        var request = new StoreStatsParams { Store = store, UserId = user, ProjectId = project };
        return AskAsync(WireActions.StoreStats, request, cancellationToken);
    }

    private Task<TResult> AskAsync<TParams, TResult>(
        WireAction<TParams, TResult> action, TParams request, CancellationToken cancellationToken)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        ArgumentNullException.ThrowIfNull(request);
        return worker.ExecuteAsync(action, request, null, cancellationToken);
    }
}
