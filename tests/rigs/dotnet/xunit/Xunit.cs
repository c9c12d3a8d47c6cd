namespace Xunit;

// As much of xunit as this project's test classes use, under its names: they are compiled and run where NuGet is not.

[AttributeUsage(AttributeTargets.Method)]
public class FactAttribute : Attribute;

public sealed class TheoryAttribute : FactAttribute;

[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class InlineDataAttribute(params object[] data) : Attribute
{
    public object[] Data { get; } = data;
}

public sealed class XunitException(string message) : Exception(message);

public static class Assert
{
    public static void True(bool condition) => Check(condition, "it is false");

    public static void Equal<T>(T expected, T actual) =>
        Check(EqualityComparer<T>.Default.Equals(expected, actual), $"expected {expected}, found {actual}");

    public static void Equal<T>(IEnumerable<T> expected, IEnumerable<T> actual) =>
        Check(
            expected.SequenceEqual(actual),
            $"expected {string.Join(", ", expected)}, found {string.Join(", ", actual)}");

    public static void NotEqual<T>(T expected, T actual) =>
        Check(!EqualityComparer<T>.Default.Equals(expected, actual), $"both are {actual}");

    public static void Contains(string expected, string? actual) =>
        Check(actual?.Contains(expected, StringComparison.Ordinal) == true, $"'{expected}' is not in '{actual}'");

    public static async Task<T> ThrowsAsync<T>(Func<Task> code)
        where T : Exception
    {
        try
        {
            await code();
        }
        catch (T expected) when (expected.GetType() == typeof(T))
        {
            return expected;
        }

        throw new XunitException($"no {typeof(T).Name} was thrown");
    }

    private static void Check(bool holds, string message)
    {
        if (!holds)
        {
            throw new XunitException(message);
        }
    }
}
