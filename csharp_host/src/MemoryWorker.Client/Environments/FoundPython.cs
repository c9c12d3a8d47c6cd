namespace MemoryWorker.Client.Environments;

/// <summary>What an interpreter said about itself.</summary>
internal sealed record FoundPython(string Path, string Version)
{
    private const int Major = 3;
    private const int Minor = 11;

    public static string Needed => $"{Major}.{Minor}";

    public bool IsNewEnough => System.Version.TryParse(Version, out var found) && found >= new Version(Major, Minor);
}
