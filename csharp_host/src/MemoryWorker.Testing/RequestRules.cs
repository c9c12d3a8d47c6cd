using System.Globalization;
using System.Numerics;
using System.Text.Json;
using System.Text.RegularExpressions;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What a request has to keep to that its schema does not say.</summary>
internal static class RequestRules
{
    /// <summary>Returns what is wrong with a value of which each part is right by itself; null where nothing is.</summary>
    public static string? Broken(string action, string path, JsonElement value) => path switch
    {
        "data.alignment" when !BitOperations.IsPow2(value.GetInt64()) => $"{value} is not a power of two",
        "data.thresholds" => Ascending(value),
        "data" when action == MemoryActions.PlanBatches && !IsNewOrKnown(value) =>
            "item_count and bytes_per_item are needed, or plan_id, with done_items alone beside it",
        "data" when action == StoreActions.Delete && Given(value, "key", "tag", "prefix") != 1 => "exactly one of key, tag and prefix is needed",
        "data" when action == StoreActions.Search && Given(value, "vector", "text", "tokens") != 1 =>
            "exactly one of vector, text and tokens is needed",
        "data" when action == StoreActions.Search && Has(value, "key") != Has(value, "tokens") => "key is needed with tokens, and with them alone",
        "data" when action == StoreActions.Put && Given(value, "value", "allocation_id") > 1 =>
            "value and allocation_id: at most one is taken",
        _ when Regex.IsMatch(path, @"^data\.candidates\.\d+$") && Has(value, "required_bytes") == Has(value, "model_id") =>
            "exactly one of required_bytes and model_id is needed",
        _ => null,
    };

    private static int Given(JsonElement value, params string[] names) => names.Count(one => Has(value, one));

    private static bool Has(JsonElement value, string name) =>
        value.TryGetProperty(name, out var member) && member.ValueKind != JsonValueKind.Null;

    /// <summary>Work to be cut, or the rest of work that was.</summary>
    private static bool IsNewOrKnown(JsonElement value)
    {
        var given = value.EnumerateObject().Where(one => one.Value.ValueKind != JsonValueKind.Null).Select(one => one.Name).ToHashSet();
        return given.Contains("plan_id")
            ? given.IsSubsetOf(["plan_id", "done_items"])
            : given.IsSupersetOf(["item_count", "bytes_per_item"]) && !given.Contains("done_items");
    }

    private static string? Ascending(JsonElement value)
    {
        var levels = new[] { "moderate", "high", "critical" }.Select(one => value.GetProperty(one).GetDouble()).ToArray();
        return levels[0] < levels[1] && levels[1] < levels[2]
            ? null
            : $"{string.Join(" < ", levels.Select(one => one.ToString("0.0###############", CultureInfo.InvariantCulture)))} does not hold";
    }
}
