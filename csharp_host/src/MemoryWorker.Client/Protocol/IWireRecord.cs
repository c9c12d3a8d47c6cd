using System.Text.Json;

namespace MemoryWorker.Client.Protocol;

/// <summary>A type of the wire contract that reads and writes itself, without reflection.</summary>
/// <typeparam name="TSelf">The type itself.</typeparam>
public interface IWireRecord<TSelf>
    where TSelf : class, IWireRecord<TSelf>
{
    /// <summary>Reads from the object that the reader stands on (or before), and leaves it on the object's end.</summary>
    /// <param name="reader">Must hold the whole object.</param>
    /// <param name="strict">Refuse unknown members and values outside the contract's ranges. False lets a newer worker say more.</param>
    /// <exception cref="JsonException">A member is missing, of another type, or refused.</exception>
    static abstract TSelf Read(ref Utf8JsonReader reader, bool strict);

    /// <summary>Writes one object. An optional member is written if it was assigned, also with null.</summary>
    void Write(Utf8JsonWriter writer);
}
