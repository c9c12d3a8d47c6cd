using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// One store of one scope, by its name. It is opened when something is put into it, and again with the worker that replaces one
/// that died; one that persists also when something is read. Values are a host's own types, written and read as its
/// <c>JsonSerializerContext</c> was compiled to; what is read is a copy.
/// </summary>
public sealed class MemoryStore
{
    private readonly IMemoryStores _stores;
    private readonly StoreOptions? _options;

    internal MemoryStore(IMemoryStores stores, string name, StoreKind kind, StoreOptions? options, MemoryScope scope)
    {
        _stores = stores;
        _options = options;
        (Name, Kind, Scope) = (name, kind, scope);
    }

    /// <summary>Its name in the scope.</summary>
    public string Name { get; }

    /// <summary>What it is for.</summary>
    public StoreKind Kind { get; }

    /// <summary>Whose it is.</summary>
    public MemoryScope Scope { get; }

    /// <summary>Opens it now, or finds it open.</summary>
    /// <exception cref="WorkerRequestException"><c>invalid_request</c>: it is open as another kind, or an option can't be met.</exception>
    public Task<StoreOpenResult> OpenAsync(CancellationToken cancellationToken = default)
    {
        var request = new StoreOpenParams { Store = Name, Kind = Kind, UserId = Scope.UserId, ProjectId = Scope.ProjectId };
        return _stores.OpenAsync(_options is null ? request : request with { Options = _options }, cancellationToken);
    }

    /// <summary>Puts a value, in place of the one of that key.</summary>
    /// <param name="key">At most 1,024 characters.</param>
    /// <param name="value">Written at once.</param>
    /// <param name="type">How it is written: <c>MyJsonContext.Default.MyType</c>.</param>
    /// <param name="cost">What making it again takes: the dearer, the longer it stays.</param>
    /// <param name="timeToLive">Null for the store's.</param>
    /// <param name="tags">By which it can be deleted and chosen.</param>
    /// <param name="cancellationToken">Cancels the call.</param>
    /// <exception cref="WorkerRequestException"><c>limit_exceeded</c>: it is larger than the store may be.</exception>
    public Task<StorePutResult> PutAsync<T>(
        string key,
        T value,
        JsonTypeInfo<T> type,
        TimeSpan? cost = null,
        TimeSpan? timeToLive = null,
        IReadOnlyList<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        var request = new StorePutParams
        {
            Store = Name,
            UserId = Scope.UserId,
            ProjectId = Scope.ProjectId,
            Key = key,
            Value = JsonSerializer.SerializeToElement(value, type),
            CostMs = cost?.TotalMilliseconds,
            TtlMs = timeToLive is { } time ? Math.Max(1, (long)time.TotalMilliseconds) : null,
            Tags = tags ?? [],
        };
        return OpenedAsync(() => _stores.PutAsync(request, cancellationToken), cancellationToken);
    }

    /// <summary>Gets a copy of a value; null, or the type's default, where it is not there. Nothing is made for that.</summary>
    /// <param name="key">Its key.</param>
    /// <param name="type">How it is read.</param>
    /// <param name="cancellationToken">Cancels the call.</param>
    /// <exception cref="JsonException">What is there is no <typeparamref name="T"/>, or is bytes.</exception>
    public async Task<T?> GetAsync<T>(string key, JsonTypeInfo<T> type, CancellationToken cancellationToken = default)
    {
        var found = await FindAsync(key, cancellationToken).ConfigureAwait(false);
        return found is { Found: true } ? Read(key, found, type) : default;
    }

    /// <summary>
    /// Returns what is there, or what <paramref name="make"/> returns, which is put with the time that it took: its price.
    /// What has no place in the store is returned all the same.
    /// </summary>
    /// <param name="key">Its key.</param>
    /// <param name="make">Makes it; what it throws is thrown, and nothing is put.</param>
    /// <param name="type">How it is written and read.</param>
    /// <param name="timeToLive">Null for the store's.</param>
    /// <param name="tags">By which it can be deleted and chosen.</param>
    /// <param name="cancellationToken">Cancels the call, and is handed to <paramref name="make"/>.</param>
    /// <exception cref="JsonException">What is there is no <typeparamref name="T"/>, or is bytes.</exception>
    public async Task<T> GetOrMakeAsync<T>(
        string key,
        Func<CancellationToken, Task<T>> make,
        JsonTypeInfo<T> type,
        TimeSpan? timeToLive = null,
        IReadOnlyList<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(make);
        var found = await FindAsync(key, cancellationToken).ConfigureAwait(false);
        if (found is { Found: true })
        {
            return Read(key, found, type)!; // null is a value, too
        }

        var watch = Stopwatch.StartNew();
        var value = await make(cancellationToken).ConfigureAwait(false);
        try
        {
            await PutAsync(key, value, type, watch.Elapsed, timeToLive, tags, cancellationToken).ConfigureAwait(false);
        }
        catch (WorkerRequestException refused) when (refused.ErrorCode is ErrorCode.LimitExceeded or ErrorCode.OutOfMemory)
        {
            // It is made, whether it has a place or not.
        }

        return value;
    }

    /// <summary>Deletes the entry of a key; says whether there was one.</summary>
    public async Task<bool> DeleteAsync(string key, CancellationToken cancellationToken = default) =>
        await DeletedAsync(Choice() with { Key = key }, cancellationToken).ConfigureAwait(false) > 0;

    /// <summary>Deletes the entries that have a tag; says how many.</summary>
    public Task<long> DeleteTagAsync(string tag, CancellationToken cancellationToken = default) =>
        DeletedAsync(Choice() with { Tag = tag }, cancellationToken);

    /// <summary>Deletes the entries whose keys begin so; says how many.</summary>
    public Task<long> DeletePrefixAsync(string prefix, CancellationToken cancellationToken = default) =>
        DeletedAsync(Choice() with { Prefix = prefix }, cancellationToken);

    private T? Read<T>(string key, StoreGetResult found, JsonTypeInfo<T> type) => found switch
    {
        { AllocationId: not null } => throw new JsonException(
            $"'{key}' of store '{Name}' is bytes, not a value: get them with {nameof(IMemoryStores)}.{nameof(IMemoryStores.GetAsync)}"),
        { Value: { } value } => value.Deserialize(type),
        _ => default,
    };

    private StoreDeleteParams Choice() => new() { Store = Name, UserId = Scope.UserId, ProjectId = Scope.ProjectId };

    private async Task<long> DeletedAsync(StoreDeleteParams request, CancellationToken cancellationToken)
    {
        var deleted = await ThereAsync(() => _stores.DeleteAsync(request, cancellationToken), cancellationToken).ConfigureAwait(false);
        return deleted?.DeletedEntries ?? 0;
    }

    private Task<StoreGetResult?> FindAsync(string key, CancellationToken cancellationToken)
    {
        var request = new StoreGetParams { Store = Name, UserId = Scope.UserId, ProjectId = Scope.ProjectId, Key = key };
        return ThereAsync(() => _stores.GetAsync(request, cancellationToken), cancellationToken);
    }

    /// <summary>Asks, and opens the store first where that is what lacks.</summary>
    private async Task<T> OpenedAsync<T>(Func<Task<T>> ask, CancellationToken cancellationToken)
    {
        try
        {
            return await ask().ConfigureAwait(false);
        }
        catch (WorkerRequestException refused) when (refused.ErrorCode == ErrorCode.StoreNotFound)
        {
            await OpenAsync(cancellationToken).ConfigureAwait(false);
            return await ask().ConfigureAwait(false);
        }
    }

    /// <summary>Asks for what may not be there: null where the store is neither open nor on disk.</summary>
    private async Task<T?> ThereAsync<T>(Func<Task<T>> ask, CancellationToken cancellationToken)
        where T : class
    {
        if (_options is { Persist: true } or { Preset: StorePreset.Results })
        {
            return await OpenedAsync(ask, cancellationToken).ConfigureAwait(false);
        }

        try
        {
            return await ask().ConfigureAwait(false);
        }
        catch (WorkerRequestException refused) when (refused.ErrorCode == ErrorCode.StoreNotFound)
        {
            return null;
        }
    }
}
