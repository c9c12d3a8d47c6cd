using MemoryWorker.Client;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>Holds configured options to the same rules as the client's own.</summary>
internal sealed class MemoryWorkerOptionsValidator : IValidateOptions<MemoryWorkerOptions>
{
    public ValidateOptionsResult Validate(string? name, MemoryWorkerOptions options)
    {
        try
        {
            options.ToClient(TimeProvider.System).Validate();
            return ValidateOptionsResult.Success;
        }
        catch (ArgumentException problem)
        {
            return ValidateOptionsResult.Fail($"{MemoryWorkerOptions.Section}{(string.IsNullOrEmpty(name) ? string.Empty : $" '{name}'")}: {problem.Message}");
        }
    }
}
