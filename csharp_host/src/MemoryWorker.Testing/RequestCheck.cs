using System.Globalization;
using System.Numerics;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace MemoryWorker.Testing;

/// <summary>Holds a request's data to the contract, and words each fault as the worker does.</summary>
internal sealed class RequestCheck
{
    private readonly List<(string Path, string Message)> _faults = [];

    /// <summary>Returns each fault with the path of what is wrong, in the schema's order; none for an action that is not the contract's.</summary>
    public static IReadOnlyList<(string Path, string Message)> Faults(string action, JsonElement data)
    {
        if (RequestSchemas.Of(action) is not { } text)
        {
            return [];
        }

        using var schema = JsonDocument.Parse(text);
        var check = new RequestCheck();
        check.Check(schema.RootElement, data, "data");
        return check._faults;
    }

    private void Check(JsonElement schema, JsonElement value, string path)
    {
        if (schema.TryGetProperty("anyOf", out var ways))
        {
            CheckAny(ways, value, path);
        }
        else if (schema.TryGetProperty("enum", out var words))
        {
            Expect(value.ValueKind == JsonValueKind.String && words.EnumerateArray().Any(one => one.ValueEquals(value.GetString())), path, $"Input should be {Alternatives(words)}");
        }
        else
        {
            var before = _faults.Count;
            CheckType(schema, value, path);
            if (_faults.Count == before && RequestRules.Broken(schema, path, value) is { } message)
            {
                _faults.Add((path, message));
            }
        }
    }

    /// <summary>Null, or what is left beside it; a fault of each where none of several fits.</summary>
    private void CheckAny(JsonElement ways, JsonElement value, string path)
    {
        var before = _faults.Count;
        foreach (var way in ways.EnumerateArray())
        {
            var start = _faults.Count;
            if (way.TryGetProperty("type", out var type) && type.ValueEquals("null"))
            {
                if (value.ValueKind == JsonValueKind.Null)
                {
                    _faults.RemoveRange(before, _faults.Count - before);
                    return;
                }

                continue;
            }

            Check(way, value, path);
            if (_faults.Count == start)
            {
                _faults.RemoveRange(before, _faults.Count - before);
                return;
            }
        }
    }

    private void CheckType(JsonElement schema, JsonElement value, string path)
    {
        switch (schema.TryGetProperty("type", out var type) ? type.GetString() : null) // Any JSON at all where there is none.
        {
            case "integer" when Expect(
                value.ValueKind == JsonValueKind.Number && !value.GetRawText().AsSpan().ContainsAny(".eE"), path, "Input should be a valid integer"):
                CheckRange(schema, BigInteger.Parse(value.GetRawText(), CultureInfo.InvariantCulture), path, BigInteger.Compare,
                    limit => BigInteger.Parse(limit, CultureInfo.InvariantCulture));
                break;
            case "number" when Expect(value.ValueKind == JsonValueKind.Number, path, "Input should be a valid number"):
                CheckRange(schema, value.GetDouble(), path, Comparer<double>.Default.Compare, limit => double.Parse(limit, CultureInfo.InvariantCulture));
                break;
            case "boolean":
                Expect(value.ValueKind is JsonValueKind.True or JsonValueKind.False, path, "Input should be a valid boolean");
                break;
            case "string" when Expect(value.ValueKind == JsonValueKind.String, path, "Input should be a valid string"):
                CheckText(schema, value.GetString()!, path);
                break;
            case "array" when Expect(value.ValueKind == JsonValueKind.Array, path, "Input should be a valid list"):
                CheckItems(schema, value, path);
                break;
            case "object" when Expect(value.ValueKind == JsonValueKind.Object, path, "Input should be an object"):
                CheckMembers(schema, value, path);
                break;
            default:
                break;
        }
    }

    private void CheckRange<T>(JsonElement schema, T value, string path, Comparison<T> compare, Func<string, T> read)
    {
        foreach (var (keyword, words, holds) in new (string, string, Func<int, bool>)[]
        {
            ("minimum", "greater than or equal to", order => order >= 0),
            ("exclusiveMinimum", "greater than", order => order > 0),
            ("maximum", "less than or equal to", order => order <= 0),
        })
        {
            if (schema.TryGetProperty(keyword, out var limit)
                && !Expect(holds(compare(value, read(limit.GetRawText()))), path, $"Input should be {words} {limit.GetRawText()}"))
            {
                return;
            }
        }
    }

    private void CheckText(JsonElement schema, string value, string path)
    {
        var length = value.EnumerateRunes().Count();
        if (Limit(schema, "minLength") is { } least)
        {
            Expect(length >= least, path, $"String should have at least {Counted(least, "character")}");
        }

        if (Limit(schema, "maxLength") is { } most)
        {
            Expect(length <= most, path, $"String should have at most {Counted(most, "character")}");
        }

        if (schema.TryGetProperty("pattern", out var pattern))
        {
            Expect(Regex.IsMatch(value, pattern.GetString()!), path, $"String should match pattern '{pattern.GetString()}'");
        }
    }

    private void CheckItems(JsonElement schema, JsonElement value, string path)
    {
        var count = value.GetArrayLength();
        if (Limit(schema, "maxItems") is { } most && !Expect(count <= most, path, $"a list of {count} items; at most {most} are taken"))
        {
            return;
        }

        foreach (var (item, index) in value.EnumerateArray().Select((item, index) => (item, index)))
        {
            Check(schema.GetProperty("items"), item, $"{path}.{index}");
        }

        if (Limit(schema, "minItems") is { } least)
        {
            Expect(count >= least, path, $"List should have at least {Counted(least, "item")}, not {count}");
        }
    }

    private void CheckMembers(JsonElement schema, JsonElement value, string path)
    {
        var known = schema.TryGetProperty("properties", out var properties) ? properties : default;
        var required = schema.TryGetProperty("required", out var names)
            ? names.EnumerateArray().Select(one => one.GetString()!).ToHashSet()
            : [];
        if (known.ValueKind == JsonValueKind.Object)
        {
            foreach (var member in known.EnumerateObject())
            {
                if (value.TryGetProperty(member.Name, out var found))
                {
                    Check(member.Value, found, $"{path}.{member.Name}");
                }
                else
                {
                    Expect(!required.Contains(member.Name), $"{path}.{member.Name}", "Field required");
                }
            }
        }

        foreach (var member in value.EnumerateObject())
        {
            Expect(known.ValueKind == JsonValueKind.Object && known.TryGetProperty(member.Name, out _), $"{path}.{member.Name}", "unknown key");
        }
    }

    private bool Expect(bool holds, string path, string message)
    {
        if (!holds)
        {
            _faults.Add((path, message));
        }

        return holds;
    }

    private static int? Limit(JsonElement schema, string keyword) =>
        schema.TryGetProperty(keyword, out var limit) ? limit.GetInt32() : null;

    private static string Counted(int count, string what) => count == 1 ? $"1 {what}" : $"{count} {what}s";

    private static string Alternatives(JsonElement words)
    {
        var all = words.EnumerateArray().Select(one => $"'{one}'").ToArray();
        return all.Length == 1 ? all[0] : $"{string.Join(", ", all[..^1])} or {all[^1]}";
    }
}
