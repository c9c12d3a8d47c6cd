using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace WebApi;

/// <summary>What each part says, and the worst of them.</summary>
internal static class HealthByPart
{
    public static Task WriteAsync(HttpContext context, HealthReport report) => context.Response.WriteAsJsonAsync(
        new
        {
            report.Status,
            Parts = report.Entries.ToDictionary(
                one => one.Key, one => new { one.Value.Status, one.Value.Description, one.Value.Data }),
        },
        WireJsonOptions.Value);
}
