using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// An application's own memory, kept by the worker: bounded in bytes, priced, apart by scope, and given back when memory is
/// short. Every method throws what <see cref="IPythonWorkerService"/> says. What is not open in a scope is
/// <c>store_not_found</c>; <see cref="Store"/> opens by itself what it needs, again after the worker was restarted.
/// </summary>
public interface IMemoryStores
{
    /// <summary>
    /// A store by its name, opened when something is put into it. Nothing is sent yet; keep it for as long as you like.
    /// </summary>
    /// <param name="name">Its name in the scope.</param>
    /// <param name="kind">What it is for.</param>
    /// <param name="options">How it is to behave; null for as its kind does.</param>
    /// <param name="scope">Whose it is; null for <see cref="MemoryScope.Default"/>.</param>
    MemoryStore Store(string name, StoreKind kind, StoreOptions? options = null, MemoryScope? scope = null);

    /// <summary>Opens a store in a scope, or finds it open; its options change to those that are given.</summary>
    /// <exception cref="WorkerRequestException"><c>invalid_request</c>: it is open as another kind, or an option can't be met.</exception>
    Task<StoreOpenResult> OpenAsync(StoreOpenParams request, CancellationToken cancellationToken = default);

    /// <summary>Puts an entry into a store, in place of the one of that key; the cheapest others make room.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>; <c>limit_exceeded</c> for an entry larger than the store may be; <c>allocation_not_found</c>.</exception>
    Task<StorePutResult> PutAsync(StorePutParams request, CancellationToken cancellationToken = default);

    /// <summary>Gets a copy of an entry. An allocation's bytes come as a shared allocation, which is freed after 60 s unless its lease is renewed.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreGetResult> GetAsync(StoreGetParams request, CancellationToken cancellationToken = default);

    /// <summary>Finds the entries nearest to a vector or a text, or those that a prompt begins with, the longest first.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>; <c>unsupported</c> by a kind that finds nothing so.</exception>
    Task<StoreSearchResult> SearchAsync(StoreSearchParams request, CancellationToken cancellationToken = default);

    /// <summary>Loads a folder of texts, below the worker's <see cref="WorkerOptions.DocumentsRoot"/>, into a store of documents: what is new or changed is read, what is gone is deleted.</summary>
    /// <param name="request">Which folder, and which of its files.</param>
    /// <param name="options">Its deadline and progress, in bytes of files; null for the service's own.</param>
    /// <param name="cancellationToken">Cancels it: what was loaded stays.</param>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>; <c>unsupported</c> where no root is named, or by another kind; <c>invalid_request</c> for a folder that is none below it.</exception>
    Task<StoreLoadFolderResult> LoadFolderAsync(
        StoreLoadFolderParams request, WorkerCallOptions? options = null, CancellationToken cancellationToken = default);

    /// <summary>Lists a store's entries by key, a page at a time.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreListResult> ListAsync(StoreListParams request, CancellationToken cancellationToken = default);

    /// <summary>Deletes entries: one, those with a tag, or those whose keys begin alike.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreDeleteResult> DeleteAsync(StoreDeleteParams request, CancellationToken cancellationToken = default);

    /// <summary>Deletes all entries of a store, which stays open; says what the system has back.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreClearResult> ClearAsync(
        string store, MemoryScope? scope = null, CancellationToken cancellationToken = default);

    /// <summary>Closes a store: its memory goes back, and what of it is persistent stays on disk until it is opened again.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreCloseResult> CloseAsync(
        string store, MemoryScope? scope = null, CancellationToken cancellationToken = default);

    /// <summary>Deletes all that is kept of a user, or of one project of theirs, in memory and on disk.</summary>
    /// <param name="userId">The user.</param>
    /// <param name="projectId">Null for all of the user's.</param>
    /// <param name="cancellationToken">Cancels the call.</param>
    Task<StoreDeleteScopeResult> DeleteScopeAsync(
        string userId, string? projectId = null, CancellationToken cancellationToken = default);

    /// <summary>Says what one store, or all of a scope, hold, and what they save.</summary>
    /// <exception cref="WorkerRequestException"><c>store_not_found</c>.</exception>
    Task<StoreStatsResult> GetStatsAsync(
        string? store = null, MemoryScope? scope = null, CancellationToken cancellationToken = default);
}
