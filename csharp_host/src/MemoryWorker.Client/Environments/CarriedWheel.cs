using System.IO.Compression;
using System.Reflection;
using System.Security.Cryptography;

namespace MemoryWorker.Client.Environments;

/// <summary>The worker's wheel as a file: the one that the assembly carries, unpacked for as long as it is needed, or one that is named.</summary>
internal sealed class CarriedWheel : IDisposable
{
    private const string Prefix = "wheel/";
    private readonly string? _unpacked;

    private CarriedWheel(string path, string? unpacked)
    {
        Path = path;
        _unpacked = unpacked;
        using var file = File.OpenRead(path);
        Sha256 = Convert.ToHexString(SHA256.HashData(file)).ToLowerInvariant();
    }

    /// <summary>Version of this library, which is that of the wheel.</summary>
    public static string Version =>
        typeof(CarriedWheel).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0]
        ?? "0";

    public string Path { get; }

    public string Sha256 { get; }

    /// <summary>The optional parts that it can be installed with.</summary>
    /// <exception cref="PythonEnvironmentException">It is no wheel.</exception>
    public IReadOnlyList<string> Extras()
    {
        const string provides = "Provides-Extra:";
        try
        {
            using var archive = ZipFile.OpenRead(Path);
            var metadata = archive.Entries.First(one => one.FullName.EndsWith(".dist-info/METADATA", StringComparison.Ordinal));
            using var reader = new StreamReader(metadata.Open());
            return [.. reader.ReadToEnd().Split('\n')
                .Where(line => line.StartsWith(provides, StringComparison.Ordinal))
                .Select(line => line[provides.Length..].Trim())];
        }
        catch (Exception problem) when (problem is InvalidDataException or InvalidOperationException)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.NotMade,
                $"{nameof(PythonEnvironmentOptions.Wheel)} '{Path}' is no wheel: set it to the worker's, or leave it out");
        }
    }

    /// <summary>Opens a wheel.</summary>
    /// <exception cref="PythonEnvironmentException">There is none, or no place to unpack it.</exception>
    public static CarriedWheel Open(string? named)
    {
        if (named is not null)
        {
            return File.Exists(named)
                ? new CarriedWheel(System.IO.Path.GetFullPath(named), null)
                : throw new PythonEnvironmentException(
                    PythonEnvironmentProblem.FolderMissing,
                    $"{nameof(PythonEnvironmentOptions.Wheel)} '{named}' is not there: set it to the worker's wheel, or leave it out");
        }

        var assembly = typeof(CarriedWheel).Assembly;
        var name = assembly.GetManifestResourceNames().FirstOrDefault(one => one.StartsWith(Prefix, StringComparison.Ordinal))
            ?? throw new PythonEnvironmentException(
                PythonEnvironmentProblem.NotMade,
                "this build of MemoryWorker.Client carries no wheel: set "
                    + $"{nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.Wheel)} to one that 'pip wheel --no-deps .' "
                    + "made in the project's folder, or use the package");
        string? folder = null;
        try
        {
            folder = Directory.CreateTempSubdirectory("memory-worker-").FullName;
            var path = System.IO.Path.Combine(folder, name[Prefix.Length..]);
            using (var resource = assembly.GetManifestResourceStream(name)!)
            using (var file = File.Create(path))
            {
                resource.CopyTo(file);
            }

            return new CarriedWheel(path, folder);
        }
        catch (Exception problem) when (problem is IOException or UnauthorizedAccessException)
        {
            Remove(folder);
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.NotMade,
                $"the worker's wheel could not be unpacked into '{System.IO.Path.GetTempPath()}' ({problem.Message}): make space "
                    + $"there, or set {nameof(PythonEnvironmentOptions.Wheel)} to one that is a file");
        }
    }

    public void Dispose() => Remove(_unpacked);

    private static void Remove(string? folder)
    {
        try
        {
            if (folder is not null)
            {
                Directory.Delete(folder, recursive: true);
            }
        }
        catch (Exception problem) when (problem is IOException or UnauthorizedAccessException)
        {
            // Somebody looks at it, such as a virus scanner: the system clears its temporary files.
        }
    }
}
