using System.Numerics;

namespace MemoryWorker.Client;

/// <summary>What an element is called in safetensors, and which .NET type has its size.</summary>
internal static unsafe class TensorTypes
{
    private static readonly Dictionary<Type, string> Own = new()
    {
        [typeof(double)] = "F64",
        [typeof(float)] = "F32",
        [typeof(Half)] = "F16",
        [typeof(long)] = "I64",
        [typeof(int)] = "I32",
        [typeof(short)] = "I16",
        [typeof(sbyte)] = "I8",
        [typeof(ulong)] = "U64",
        [typeof(uint)] = "U32",
        [typeof(ushort)] = "U16",
        [typeof(byte)] = "U8",
        [typeof(Complex)] = "C128",
        [typeof(bool)] = "BOOL",
    };

    private static readonly Dictionary<string, int> Sizes = new()
    {
        ["F64"] = 8,
        ["F32"] = 4,
        ["F16"] = 2,
        ["BF16"] = 2,
        ["F8_E4M3"] = 1,
        ["F8_E5M2"] = 1,
        ["F8_E8M0"] = 1,
        ["F8_E4M3FNUZ"] = 1,
        ["F8_E5M2FNUZ"] = 1,
        ["I64"] = 8,
        ["I32"] = 4,
        ["I16"] = 2,
        ["I8"] = 1,
        ["U64"] = 8,
        ["U32"] = 4,
        ["U16"] = 2,
        ["U8"] = 1,
        ["C128"] = 16,
        ["C64"] = 8,
        ["C32"] = 4,
        ["BOOL"] = 1,
        ["F4_X2"] = 1,
        ["BITS8"] = 1,
        ["BITS16"] = 2,
        ["BITS1X8"] = 1,
        ["BITS2X4"] = 1,
        ["BITS4X2"] = 1,
    };

    /// <summary>Throws for an offset in the middle of a value.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is named, with what it has to be a multiple of.</exception>
    public static void CheckAligned<T>(long offset)
        where T : unmanaged
    {
        if (offset % sizeof(T) != 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(offset), $"offset {offset} is not a multiple of {sizeof(T)}, the size of {typeof(T).Name}");
        }
    }

    /// <summary>The name asked for, if it is of this size; else the type's own.</summary>
    /// <exception cref="ArgumentException">There is no such name, it is of another size, or the type has none.</exception>
    public static string NameOf<T>(string? dtype)
        where T : unmanaged
    {
        if (dtype is null)
        {
            return Own.GetValueOrDefault(typeof(T))
                ?? throw new ArgumentException($"{typeof(T).Name} has no dtype of its own; name one of its size, such as BF16 for UInt16", nameof(dtype));
        }

        if (!Sizes.TryGetValue(dtype, out var bytes))
        {
            throw new ArgumentException($"'{dtype}' is no dtype; there are {string.Join(", ", Sizes.Keys)}", nameof(dtype));
        }

        return bytes == sizeof(T)
            ? dtype
            : throw new ArgumentException($"{dtype} has {bytes} bytes, and {typeof(T).Name} has {sizeof(T)}", nameof(dtype));
    }
}
