using System.Text.RegularExpressions;

namespace MemoryWorker.Testing;

/// <summary>Ids as the worker makes them: each ends with the part of the process that made it.</summary>
/// <param name="instance">Hexadecimal digits, others for each process.</param>
internal sealed class Ids(string instance)
{
    /// <summary><c>alloc-1-00000001</c>.</summary>
    public string Make(string kind, long number) => $"{kind}-{number}-{instance}";

    /// <summary>The id that is meant: without a process's part it is this one's.</summary>
    public string Complete(string given) => Regex.IsMatch(given, "^(alloc|batches|operation|plan|transfer)-[0-9]+$") ? $"{given}-{instance}" : given;

    /// <summary>Whether an id is another process's.</summary>
    public bool IsOfAnother(string id) =>
        Regex.Match(id, "^[a-z]+-[0-9]+(?:-([0-9a-f]+))?$") is { Success: true } made && made.Groups[1].Value != instance;

    /// <summary>Why there is no allocation of an id that was not made here.</summary>
    public string WhyNone(string id) =>
        Regex.Match(id, "^alloc-[0-9]+(?:-([0-9a-f]+))?$") is { Success: true } made && made.Groups[1].Value != instance
            ? "another_worker_made_it"
            : "never_existed";
}
