using System.Globalization;
using System.Numerics;
using System.Text.Json;

namespace MemoryWorker.Testing;

/// <summary>What a request has to keep to that no member's schema says.</summary>
internal static class RequestRules
{
    /// <summary>Returns what is wrong with a value of which each part is right by itself; null where nothing is.</summary>
    public static string? Broken(JsonElement schema, string path, JsonElement value) => path switch
    {
        "data.alignment" when !BitOperations.IsPow2(value.GetInt64()) => $"{value} is not a power of two",
        "data.thresholds" => Ascending(value),
        _ when schema.TryGetProperty("choices", out var choices) => Unfit(choices, value),
        _ => null,
    };

    /// <summary>What the first choice says for which the members that are given, null left out, fit none of its ways.</summary>
    private static string? Unfit(JsonElement choices, JsonElement value)
    {
        var given = value.EnumerateObject().Where(one => one.Value.ValueKind != JsonValueKind.Null).Select(one => one.Name).ToList();
        foreach (var choice in choices.EnumerateArray())
        {
            var names = given.Intersect(Texts(choice, "names")).ToList();
            if (!choice.GetProperty("ways").EnumerateArray().Any(way => Texts(way, "needed").ToHashSet().SetEquals(names.Except(Texts(way, "beside")))))
            {
                return choice.GetProperty("message").GetString();
            }
        }

        return null;
    }

    private static IEnumerable<string> Texts(JsonElement value, string name) =>
        value.GetProperty(name).EnumerateArray().Select(one => one.GetString()!);

    private static string? Ascending(JsonElement value)
    {
        var levels = new[] { "moderate", "high", "critical" }.Select(one => value.GetProperty(one).GetDouble()).ToArray();
        return levels[0] < levels[1] && levels[1] < levels[2]
            ? null
            : $"{string.Join(" < ", levels.Select(one => one.ToString("0.0###############", CultureInfo.InvariantCulture)))} does not hold";
    }
}
