using System.Reflection;

namespace Xunit;

/// <summary>Runs what is marked as a test; returns a line for each, which begins with <c>passed</c> or <c>failed</c>.</summary>
public static class Runner
{
    public static async Task<string[]> RunAsync(Assembly assembly)
    {
        var lines = new List<string>();
        foreach (var method in assembly.GetExportedTypes().SelectMany(type => type.GetMethods()))
        {
            if (method.GetCustomAttribute<FactAttribute>() is null)
            {
                continue;
            }

            var data = method.GetCustomAttributes<InlineDataAttribute>().Select(one => one.Data).DefaultIfEmpty([]);
            foreach (var arguments in data)
            {
                lines.Add(await RunAsync(method, arguments));
            }
        }

        return [.. lines];
    }

    private static async Task<string> RunAsync(MethodInfo method, object[] arguments)
    {
        var name = $"{method.DeclaringType!.Name}.{method.Name}({string.Join(", ", arguments)})";
        try
        {
            var result = method.Invoke(Activator.CreateInstance(method.DeclaringType), arguments);
            await (result as Task ?? Task.CompletedTask);
            return $"passed {name}";
        }
        catch (Exception problem)
        {
            return $"failed {name}: {problem}";
        }
    }
}
