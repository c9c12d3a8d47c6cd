using System.Text.Json;

namespace MemoryWorker.Client.Protocol;

/// <summary>A type of the wire contract that reads and writes itself, without reflection.</summary>
/// <typeparam name="TSelf">The type itself.</typeparam>
public interface IWireRecord<TSelf>
    where TSelf : class, IWireRecord<TSelf>
{
    /// <summary>Reads from the object that the reader stands on (or before), and leaves it on the object's end.</summary>
    /// <param name="reader">Must hold the whole object.</param>
    /// <param name="strict">
    /// Refuse unknown members and words, values outside the contract's ranges, and an object that lacks a member. False
    /// reads what another version of the worker says: unknown members are skipped, an unknown word is <c>Unknown</c> with
    /// its text in <c>UnknownWords</c>, and a missing member is null where it can be.
    /// </param>
    /// <exception cref="JsonException">A member is of another type, refused, or missing although it was always there.</exception>
    static abstract TSelf Read(ref Utf8JsonReader reader, bool strict);

    /// <summary>Writes one object. An optional member is written if it was assigned, also with null.</summary>
    void Write(Utf8JsonWriter writer);
}
