using System.IO.MemoryMappedFiles;
using System.Runtime.Versioning;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// Opens what a <c>shared</c> allocation lies in, so that bytes pass between host and worker without JSON.
/// <see cref="SharedBuffer"/> allocates, maps and frees in one.
/// </summary>
public static class SharedAllocation
{
    /// <summary>Maps the memory; writes are seen by the worker at once. The caller disposes of the map.</summary>
    /// <exception cref="FileNotFoundException">The allocation was freed.</exception>
    /// <exception cref="IOException">It can't be mapped, or is smaller than it should be.</exception>
    public static MemoryMappedFile Open(
        SharedMemory shared, MemoryMappedFileAccess access = MemoryMappedFileAccess.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(shared);
        if (shared.Kind == SharedMemoryKind.Section)
        {
            return OperatingSystem.IsWindows()
                ? OpenSection(shared, access)
                : throw new PlatformNotSupportedException($"{shared.Path} is a section; only Windows has them");
        }

        var mode = access == MemoryMappedFileAccess.Read ? FileAccess.Read : FileAccess.ReadWrite;
        // The worker holds the file too, and deletes it when the allocation is freed.
        var stream = new FileStream(shared.Path, FileMode.Open, mode, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
        try
        {
            if (stream.Length < shared.SizeBytes)
            {
                throw new IOException($"{shared.Path} has {stream.Length} bytes; the allocation has {shared.SizeBytes}");
            }

            return MemoryMappedFile.CreateFromFile(
                stream, mapName: null, capacity: 0, access, HandleInheritability.None, leaveOpen: false);
        }
        catch
        {
            stream.Dispose();
            throw;
        }
    }

    [SupportedOSPlatform("windows")]
    private static MemoryMappedFile OpenSection(SharedMemory shared, MemoryMappedFileAccess access) =>
        MemoryMappedFile.OpenExisting(
            shared.Path,
            access == MemoryMappedFileAccess.Read ? MemoryMappedFileRights.Read : MemoryMappedFileRights.ReadWrite);

    /// <summary>Maps what an allocate answered.</summary>
    /// <exception cref="InvalidOperationException">It is not of type <see cref="MemoryType.Shared"/>.</exception>
    /// <exception cref="IOException">It can't be mapped.</exception>
    public static MemoryMappedFile Open(
        PostMemoryAllocateResponse allocation, MemoryMappedFileAccess access = MemoryMappedFileAccess.ReadWrite)
    {
        ArgumentNullException.ThrowIfNull(allocation);
        return Open(
            allocation.SharedMemory ?? throw new InvalidOperationException($"{allocation.AllocationId} is not shared memory"),
            access);
    }
}
