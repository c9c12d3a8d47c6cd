using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What is known of a user or project, found by its words, and as lines for a model's prompt.</summary>
internal sealed class HeldPreferences(string name, TimeProvider clock) : HeldKept(name, StoreKind.Preferences, clock)
{
    private static readonly string[] Fields = ["value", "description", "timestamp"];

    protected override long DefaultBytes => MiB;

    protected override long? DefaultEntries => 1_000;

    public override StorePutResult Put(StorePutParams asked, StoredContent content)
    {
        CheckPreference(content.Parsed());
        return base.Put(asked, content);
    }

    public override IReadOnlyList<(HeldEntry Entry, double Score)> Search(StoreSearchParams asked)
    {
        if (asked.Text is not { } text)
        {
            throw NotSearched(
                "a store of kind preferences is searched by a text; those of kinds vectors and documents are searched by a vector");
        }

        var words = Words(text).Distinct().ToList();
        return Nearest(Having(asked.Tags).Select(one => (one, Score(words, one))).Where(one => one.Item2 > 0), asked.Limit);
    }

    public override string Prompt(IEnumerable<HeldEntry> entries) => string.Join('\n', entries.Select(one =>
    {
        var (value, description) = Read(one);
        return $"- {Shown(one.Key)}: {value}{(description.Length > 0 ? $" ({Shown(description)})" : string.Empty)}";
    }));

    private static void CheckPreference(JsonElement said)
    {
        if (said.ValueKind != JsonValueKind.Object || !said.TryGetProperty("value", out _)
            || !said.EnumerateObject().All(one => Fields.Contains(one.Name)))
        {
            throw Wrong(string.Empty, "a preference is {\"value\": ..., \"description\": a text or null, \"timestamp\": a text, a number or null}");
        }

        if (said.TryGetProperty("description", out var text) && text.ValueKind is not (JsonValueKind.String or JsonValueKind.Null))
        {
            throw Wrong(".description", "a text is wanted, or null");
        }

        if (said.TryGetProperty("timestamp", out var time) && time.ValueKind is not (JsonValueKind.String or JsonValueKind.Null)
            && !(time.ValueKind == JsonValueKind.Number && time.TryGetInt64(out _)))
        {
            throw Wrong(".timestamp", "a text or a whole number is wanted, or null");
        }

        static Client.WorkerRequestException Wrong(string field, string reason) =>
            InMemoryLedger.Invalid(StoreActions.Put, $"data.value{field}", reason);
    }

    /// <summary>Which share of the words an entry has; one that is only inside another word counts half.</summary>
    private static double Score(List<string> words, HeldEntry entry)
    {
        var (value, description) = Read(entry);
        var text = Folded($"{entry.Key} {value} {description}");
        var whole = Words(text).ToHashSet();
        return words.Sum(one => whole.Contains(one) ? 1 : text.Contains(one, StringComparison.Ordinal) ? 0.5 : 0) / Math.Max(1, words.Count);
    }

    private static (string Value, string Description) Read(HeldEntry entry)
    {
        var said = entry.Content.Parsed();
        var value = said.GetProperty("value");
        var described = said.TryGetProperty("description", out var text) && text.ValueKind == JsonValueKind.String ? text.GetString()! : string.Empty;
        return (value.ValueKind == JsonValueKind.String ? Shown(value.GetString()!) : StoredContent.Text(value), described);
    }

    /// <summary>A text on one line: as it is, unless it could be taken for something else.</summary>
    private static string Shown(string text) =>
        text.Length > 0 && text.Trim() == text && text.EnumerateRunes().All(one => one.Value == ' ' || IsPrintable(Rune.GetUnicodeCategory(one)))
            ? text
            : StoredContent.Text(text);

    private static bool IsPrintable(UnicodeCategory category) => category is not (
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse
        or UnicodeCategory.OtherNotAssigned or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);

    private static string Folded(string text) => text.ToLowerInvariant();

    private static IEnumerable<string> Words(string text) => Regex.Matches(Folded(text), @"\w+").Select(one => one.Value);
}
