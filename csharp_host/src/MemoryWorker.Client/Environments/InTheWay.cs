namespace MemoryWorker.Client.Environments;

/// <summary>Packages of somebody else's that a start would find in place of the worker's own.</summary>
internal static class InTheWay
{
    /// <summary>A file in each of the worker's own packages: a checkout of this project is not in its own way.</summary>
    private static readonly Dictionary<string, string> Own = new()
    {
        ["worker"] = Path.Combine("instructor", "instructor_memory.py"),
        ["protocol"] = "contract.py",
        ["memory_worker"] = "own_packages.py",
    };

    /// <summary>Says in a sentence what is in the way and what to do; null where nothing is.</summary>
    /// <param name="arguments">What Python is started with: <c>-m worker</c> looks in the folder first.</param>
    /// <param name="folder">Where it is started.</param>
    public static string? Of(IReadOnlyList<string> arguments, string folder)
    {
        string[] names = arguments switch
        {
            ["-m", "worker", ..] => ["worker", "protocol"],
            ["-m", "memory_worker", ..] => ["memory_worker"],
            _ => [],
        };
        var places = names.SelectMany(name => new[] { name, name + ".py" }, (name, file) => (Name: name, Place: Path.Combine(folder, file)));
        return places
            .Where(one => File.Exists(one.Place) || (Directory.Exists(one.Place) && !File.Exists(Path.Combine(one.Place, Own[one.Name]))))
            .Select(one => $"'{one.Place}' is in the way of the worker's own package '{one.Name}': "
                + (one.Name == "memory_worker" ? "rename it" : "start the worker with '-m memory_worker', which looks past it")
                + $", or set {nameof(PythonWorkerOptions.WorkingDirectory)} to another folder")
            .FirstOrDefault();
    }
}
