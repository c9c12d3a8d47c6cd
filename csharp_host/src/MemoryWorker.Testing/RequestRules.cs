using System.Globalization;
using System.Numerics;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace MemoryWorker.Testing;

/// <summary>What a request has to keep to that its schema does not say.</summary>
internal static class RequestRules
{
    /// <summary>Returns what is wrong with a value of which each part is right by itself; null where nothing is.</summary>
    public static string? Broken(string path, JsonElement value) => path switch
    {
        "data.alignment" when !BitOperations.IsPow2(value.GetInt64()) => $"{value} is not a power of two",
        "data.thresholds" => Ascending(value),
        _ when Regex.IsMatch(path, @"^data\.candidates\.\d+$") && Has(value, "required_bytes") == Has(value, "model_id") =>
            "exactly one of required_bytes and model_id is needed",
        _ => null,
    };

    private static bool Has(JsonElement value, string name) =>
        value.TryGetProperty(name, out var member) && member.ValueKind != JsonValueKind.Null;

    private static string? Ascending(JsonElement value)
    {
        var levels = new[] { "moderate", "high", "critical" }.Select(one => value.GetProperty(one).GetDouble()).ToArray();
        return levels[0] < levels[1] && levels[1] < levels[2]
            ? null
            : $"{string.Join(" < ", levels.Select(one => one.ToString("0.0###############", CultureInfo.InvariantCulture)))} does not hold";
    }
}
