using System.Buffers;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// Memory that this process and the worker both see, allocated, mapped and freed as one: what is written here is what
/// the worker transfers, and no byte passes through JSON. It is zero at first. Its bytes may be read and written from any
/// thread; spans, streams and tensors over it must not be used after its disposal. One that is never disposed of keeps its
/// memory until this process ends.
/// </summary>
public sealed class SharedBuffer : IMemoryOwner<byte>, IAsyncDisposable
{
    private readonly IServiceMemory _memory;
    private readonly SharedMemory _shared;
    private readonly SharedMap _map;
    private int _disposed;

    private SharedBuffer(IServiceMemory memory, string allocationId, SharedMemory shared, bool prefault)
    {
        _memory = memory;
        _shared = shared;
        AllocationId = allocationId;
        _map = new SharedMap(SharedAllocation.Open(shared), shared.SizeBytes);
        Prefaulted = prefault ? _map.PrefaultAsync() : Task.CompletedTask;
    }

    /// <summary>The allocation: what a transfer or a plugin is told to work on.</summary>
    public string AllocationId { get; }

    /// <summary>As asked for.</summary>
    public long SizeBytes => _shared.SizeBytes;

    /// <summary>
    /// Completes when no first touch of a page is left to pay for; never fails. Whoever writes earlier pays for the pages
    /// that are not there yet.
    /// </summary>
    public Task Prefaulted { get; }

    /// <summary>All of it.</summary>
    /// <exception cref="InvalidOperationException">It has more than 2,147,483,647 bytes: take <see cref="Slice"/> or <see cref="CreateStream"/>.</exception>
    /// <exception cref="ObjectDisposedException">It was disposed of.</exception>
    public Memory<byte> Memory => Slice(0, WholeLength);

    /// <inheritdoc cref="Memory"/>
    public Span<byte> Span => AsSpan<byte>(0, WholeLength);

    private int WholeLength => SizeBytes <= int.MaxValue
        ? (int)SizeBytes
        : throw new InvalidOperationException($"{SizeBytes} bytes are more than one span holds; take {nameof(Slice)} or {nameof(CreateStream)}");

    /// <summary>Allocates on the CPU and maps. What is not mapped in the end is freed.</summary>
    /// <param name="memory">The service that allocates, and frees at disposal.</param>
    /// <param name="sizeBytes">Bytes, at least 1.</param>
    /// <param name="cancellationToken">Cancels the allocation.</param>
    /// <inheritdoc cref="AllocateAsync(IServiceMemory, PostMemoryAllocateRequest, bool, CancellationToken)" path="/exception"/>
    public static Task<SharedBuffer> AllocateAsync(
        IServiceMemory memory, long sizeBytes, CancellationToken cancellationToken = default) =>
        AllocateAsync(memory, new PostMemoryAllocateRequest { SizeBytes = sizeBytes }, cancellationToken: cancellationToken);

    /// <inheritdoc cref="AllocateAsync(IServiceMemory, long, CancellationToken)"/>
    /// <param name="memory">The service that allocates, and frees at disposal.</param>
    /// <param name="request">Size, owner, lease and what else an allocation has; <see cref="MemoryType.Shared"/> whatever it says, on the CPU unless it names a device.</param>
    /// <param name="prefault">Have a thread of its own touch the pages while this host does something else (<see cref="Prefaulted"/>).</param>
    /// <param name="cancellationToken">Cancels the allocation.</param>
    /// <exception cref="WorkerRequestException"><c>out_of_memory</c>, <c>limit_exceeded</c>, <c>unsupported</c> and more.</exception>
    /// <exception cref="IOException">It can't be mapped.</exception>
    public static async Task<SharedBuffer> AllocateAsync(
        IServiceMemory memory,
        PostMemoryAllocateRequest request,
        bool prefault = true,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(request);
        request = request with { MemoryType = MemoryType.Shared, DeviceId = request.DeviceId ?? "cpu" };
        var made = await memory.PostMemoryAllocateAsync(request, cancellationToken).ConfigureAwait(false);
        try
        {
            return new(
                memory,
                made.AllocationId,
                made.SharedMemory ?? throw new IOException($"{made.AllocationId} on {made.DeviceId} can't be mapped by this process"),
                prefault);
        }
        catch
        {
            try
            {
                await FreeAsync(memory, made.AllocationId).ConfigureAwait(false);
            }
            catch (WorkerException)
            {
                // Why there is no map is what the caller is to hear.
            }

            throw;
        }
    }

    /// <summary>Maps an allocation that is there already, such as what a transfer made; disposal frees it.</summary>
    /// <param name="memory">The service that frees it.</param>
    /// <param name="allocationId">Which.</param>
    /// <param name="shared">As the answer that named it said.</param>
    /// <exception cref="IOException">It was freed, or can't be mapped.</exception>
    public static SharedBuffer Open(IServiceMemory memory, string allocationId, SharedMemory shared)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentException.ThrowIfNullOrEmpty(allocationId);
        ArgumentNullException.ThrowIfNull(shared);
        return new(memory, allocationId, shared, prefault: false);
    }

    /// <summary>A part of it.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It lies outside.</exception>
    /// <exception cref="ObjectDisposedException">It was disposed of.</exception>
    public unsafe Memory<byte> Slice(long offset, int length)
    {
        _ = At(offset, length);
        return new SharedWindow(_map, offset, length).Memory;
    }

    /// <summary>A part of it as values.</summary>
    /// <param name="offset">Bytes from the start; a multiple of the value's size.</param>
    /// <param name="length">How many values.</param>
    /// <exception cref="ArgumentOutOfRangeException">It lies outside, or is not aligned.</exception>
    /// <exception cref="ObjectDisposedException">It was disposed of.</exception>
    public unsafe Span<T> AsSpan<T>(long offset, int length)
        where T : unmanaged
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        TensorTypes.CheckAligned<T>(offset);
        return new(At(offset, (long)length * sizeof(T)), length);
    }

    /// <summary>A stream over it, of whatever size. It may be left open: it holds nothing.</summary>
    /// <param name="access">What it may do.</param>
    /// <exception cref="ObjectDisposedException">It was disposed of; the stream throws it from then on, too.</exception>
    public unsafe Stream CreateStream(FileAccess access = FileAccess.ReadWrite)
    {
        _ = At(0, 0);
        return new UnmanagedMemoryStream(_map.Handle, 0, SizeBytes, access);
    }

    /// <summary>All of it, or as much as the shape takes, as a tensor of rows in C order.</summary>
    /// <typeparam name="T">One element.</typeparam>
    /// <param name="shape">Its dimensions, outermost first; none is negative.</param>
    /// <param name="dtype">The element's name as in safetensors; null for the one that <typeparamref name="T"/> has.</param>
    /// <param name="offset">Bytes from the start; a multiple of the element's size.</param>
    /// <exception cref="ArgumentException">The shape does not fit, or <typeparamref name="T"/> has no dtype of its own, or another size than the one named.</exception>
    /// <exception cref="ObjectDisposedException">It was disposed of.</exception>
    public unsafe SharedTensor<T> AsTensor<T>(IReadOnlyList<long> shape, string? dtype = null, long offset = 0)
        where T : unmanaged
    {
        var tensor = new SharedTensor<T>(this, shape, dtype, offset);
        if (offset < 0 || tensor.SizeBytes > SizeBytes - offset)
        {
            throw new ArgumentOutOfRangeException(
                nameof(shape),
                $"[{string.Join(", ", tensor.Shape)}] of {tensor.DType} takes {tensor.SizeBytes} bytes, and the buffer has "
                    + $"{Math.Max(0, SizeBytes - Math.Max(0, offset))} from offset {offset} on");
        }

        _ = At(offset, tensor.SizeBytes);
        return tensor;
    }

    /// <summary>Unmaps it, and has the worker free it without waiting for that.</summary>
    public void Dispose() => _ = DisposeAsync().AsTask();

    /// <summary>Unmaps it and frees it. Where its worker has died it went along: that is no error.</summary>
    /// <exception cref="WorkerTimeoutException">The worker does not answer; the allocation may stay.</exception>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 1)
        {
            return;
        }

        _map.Dispose();
        await FreeAsync(_memory, AllocationId).ConfigureAwait(false);
    }

    private static async Task FreeAsync(IServiceMemory memory, string allocationId)
    {
        try
        {
            await memory.DeleteMemoryAllocationAsync(allocationId, force: true).ConfigureAwait(false); // No other worker has the id.
        }
        catch (WorkerRequestException problem) when (problem.ErrorCode == ErrorCode.AllocationNotFound)
        {
            // Its lease ran out, or somebody else freed it.
        }
        catch (Exception problem) when (problem is WorkerExitedException or WorkerStartException or ObjectDisposedException)
        {
            // It went with its worker.
        }
    }

    internal unsafe byte* At(long offset, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        if (bytes > SizeBytes - offset)
        {
            throw new ArgumentOutOfRangeException(
                nameof(bytes), $"{bytes} bytes from offset {offset} on are more than the buffer's {SizeBytes}");
        }

        return _map.At(offset);
    }
}
