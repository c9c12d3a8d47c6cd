using System.Diagnostics.CodeAnalysis;
using System.Reflection;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>Refuses keys of a configuration that no option has: binding passes over them, and what was meant would not hold.</summary>
[RequiresUnreferencedCode("Options are compared with configuration by reflection.")]
internal sealed class UnknownOptions(string of, IConfiguration configuration) : IValidateOptions<MemoryWorkerOptions>
{
    private const int Near = 3;

    public ValidateOptionsResult Validate(string? name, MemoryWorkerOptions options)
    {
        if (name != of)
        {
            return ValidateOptionsResult.Skip;
        }

        var isWhole = configuration is not IConfigurationSection;
        if (isWhole && (configuration.GetSection(MemoryWorkerOptions.Section).Exists() || !HasOptions(configuration)))
        {
            return ValidateOptionsResult.Fail(
                $"the whole configuration was given; give its section: GetSection(\"{MemoryWorkerOptions.Section}\")");
        }

        var unknown = Unknown(typeof(MemoryWorkerOptions), configuration, passOverVariables: isWhole).ToList();
        return unknown.Count == 0 ? ValidateOptionsResult.Success : ValidateOptionsResult.Fail(unknown);
    }

    /// <summary>Whether something in it may be meant for the worker: a host's own has logging, hosts and what its process inherited.</summary>
    private static bool HasOptions(IConfiguration configuration)
    {
        var known = Known(typeof(MemoryWorkerOptions));
        return configuration.GetChildren().All(IsVariable) || configuration.GetChildren().Any(one => known.ContainsKey(one.Key));
    }

    private static Dictionary<string, Type> Known(Type type) => type.GetProperties(BindingFlags.Public | BindingFlags.Instance)
        .ToDictionary(one => one.Name, one => one.PropertyType, StringComparer.OrdinalIgnoreCase);

    /// <summary>Whether it is what the process inherited, not what somebody wrote for the worker.</summary>
    private static bool IsVariable(IConfigurationSection one) => Environment.GetEnvironmentVariable(one.Key) is not null;

    private static IEnumerable<string> Unknown(Type type, IConfiguration section, bool passOverVariables = false)
    {
        var known = Known(type);
        foreach (var child in section.GetChildren().Where(one => !passOverVariables || known.ContainsKey(one.Key) || !IsVariable(one)))
        {
            if (!known.TryGetValue(child.Key, out var kind))
            {
                var nearest = known.Keys.MinBy(one => Distance(one, child.Key))!;
                var hint = Distance(nearest, child.Key) <= Near ? $"did you mean {nearest}?" : $"there are {string.Join(", ", known.Keys)}";
                yield return $"{child.Path} is no option; {hint}";
            }
            else if (kind.Assembly == typeof(Client.WorkerOptions).Assembly && kind.IsClass)
            {
                foreach (var one in Unknown(kind, child))
                {
                    yield return one;
                }
            }
        }
    }

    /// <summary>How many letters have to be changed, added or left out.</summary>
    private static int Distance(string one, string other)
    {
        var row = Enumerable.Range(0, other.Length + 1).ToArray();
        for (var i = 1; i <= one.Length; i++)
        {
            var (diagonal, before) = (row[0], row);
            row = [i, .. new int[other.Length]];
            for (var j = 1; j <= other.Length; j++)
            {
                var change = char.ToUpperInvariant(one[i - 1]) == char.ToUpperInvariant(other[j - 1]) ? 0 : 1;
                row[j] = Math.Min(Math.Min(before[j], row[j - 1]) + 1, diagonal + change);
                diagonal = before[j];
            }
        }

        return row[^1];
    }
}
