using System.Security.Cryptography;
using MemoryWorker.Client;

namespace MemoryWorker.Testing;

/// <summary>
/// A real process that speaks the protocol and misbehaves when it is told to: for tests of what a host does when its
/// worker hangs, dies in the middle of a line or says what is no frame. It needs a Python 3.11 and no packages.
/// </summary>
public static class FakeWorkerProcess
{
    private const string Script = "fake_worker.py";

    /// <summary>Options that start it. Its actions are called with <c>WireAction.Plain("fake.exit")</c> and the like.</summary>
    /// <param name="python">The interpreter; null for the one of <see cref="PythonWorkerOptions.FileName"/>.</param>
    /// <param name="arguments">
    /// How it misbehaves from the start, among them <c>--mute</c> (never answers), <c>--traceback</c> (ends at once),
    /// <c>--only-if FILE</c> (ends with code 7 until there is the file), <c>--journal FILE</c> (writes down each request),
    /// <c>--die-on ACTION</c> (with a journal: dies instead of answering it), <c>--hang-on ACTION</c>,
    /// <c>--answers FILE</c> (a JSON object: the data to answer, by action); <c>--help</c> lists all.
    /// </param>
    /// <exception cref="IOException">The script can't be written to the folder for temporary files.</exception>
    public static PythonWorkerOptions Options(string? python = null, params string[] arguments)
    {
        ArgumentNullException.ThrowIfNull(arguments);
        var options = new PythonWorkerOptions { Arguments = [Write(), .. arguments] };
        return python is null ? options : options with { FileName = python };
    }

    /// <summary>Writes the script, under a name of its contents so that it is never another's, and returns its path.</summary>
    private static string Write()
    {
        using var resource = typeof(FakeWorkerProcess).Assembly.GetManifestResourceStream(Script)
            ?? throw new InvalidOperationException($"{Script} is not in the assembly");
        using var contents = new MemoryStream();
        resource.CopyTo(contents);
        var bytes = contents.ToArray();
        var folder = Path.Combine(Path.GetTempPath(), $"memory-worker-testing-{Environment.UserName}");
        var name = $"{Path.GetFileNameWithoutExtension(Script)}-{Convert.ToHexString(SHA256.HashData(bytes))[..16]}.py";
        var file = Path.Combine(folder, name);
        if (!File.Exists(file) || !File.ReadAllBytes(file).AsSpan().SequenceEqual(bytes))
        {
            Directory.CreateDirectory(folder);
            var written = Path.Combine(folder, Path.GetRandomFileName());
            File.WriteAllBytes(written, bytes);
            File.Move(written, file, overwrite: true);
        }

        return file;
    }
}
