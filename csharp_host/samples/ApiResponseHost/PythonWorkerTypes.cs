namespace ApiResponseHost;

/// <summary>Which worker a command is for. There is one here; the text of another is refused by name.</summary>
public readonly record struct PythonWorkerTypes(string Name)
{
    public static readonly PythonWorkerTypes Memory = new("memory");

    /// <inheritdoc cref="Memory"/>
    public static readonly PythonWorkerTypes MEMORY = Memory;

    public static implicit operator PythonWorkerTypes(string name) => new(name);

    public override string ToString() => Name;
}
