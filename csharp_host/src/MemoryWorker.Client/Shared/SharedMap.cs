using System.IO.MemoryMappedFiles;
using Microsoft.Win32.SafeHandles;

namespace MemoryWorker.Client;

/// <summary>A map of shared memory by its address. It is unmapped when it is disposed of and whatever pinned it has let go.</summary>
internal sealed unsafe class SharedMap : IDisposable
{
    /// <summary>Below this, a thread costs more than the touches that it would take over.</summary>
    private const long WorthAThreadBytes = 8 << 20;

    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _start;
    private readonly CancellationTokenSource _ending = new();

    public SharedMap(MemoryMappedFile file, long sizeBytes)
    {
        _file = file;
        SizeBytes = sizeBytes;
        try
        {
            _view = file.CreateViewAccessor(0, sizeBytes);
            // Held until disposal: where nobody disposes, the map stays, since a span does not keep it alive.
            Handle.AcquirePointer(ref _start);
        }
        catch
        {
            _view?.Dispose();
            file.Dispose();
            throw;
        }
    }

    public long SizeBytes { get; }

    public SafeMemoryMappedViewHandle Handle => _view.SafeMemoryMappedViewHandle;

    public byte* At(long offset)
    {
        ObjectDisposedException.ThrowIf(Handle.IsClosed, typeof(SharedBuffer));
        return _start + offset;
    }

    /// <summary>Keeps the map while an address is in use by others.</summary>
    public void Hold()
    {
        byte* unused = null;
        Handle.AcquirePointer(ref unused);
    }

    public void LetGo() => Handle.ReleasePointer();

    public Task PrefaultAsync() => SizeBytes < WorthAThreadBytes
        ? Task.CompletedTask
        : Task.Factory.StartNew(Prefault, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    public void Dispose()
    {
        _ending.Cancel();
        LetGo();
        Handle.Dispose(); // Not the view, which would write it all to a file that is about to be removed.
        _file.Dispose();
    }

    private void Prefault()
    {
        try
        {
            Hold();
        }
        catch (ObjectDisposedException)
        {
            return;
        }

        try
        {
            PageTouch.All(_start, SizeBytes, _ending.Token);
        }
        finally
        {
            LetGo();
        }
    }
}
