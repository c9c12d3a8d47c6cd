namespace MemoryWorker.Testing;

/// <summary>A plan that was answered and can be taken up once, exactly as it was answered.</summary>
/// <param name="PlanId">Its name.</param>
/// <param name="Device">Where.</param>
/// <param name="RequiredBytes">For how much.</param>
/// <param name="ModelId">The model that it is for; null for an allocation.</param>
/// <param name="Needed">What goes for it.</param>
/// <param name="LastUses">When its victims had been used last, as <see cref="LoadedModel.LastUse"/> counts.</param>
/// <param name="ExpiresAt">From when on it is stale.</param>
internal sealed record HeldPlan(
    string PlanId,
    FakeDevice Device,
    long RequiredBytes,
    string? ModelId,
    NeededHeadroom Needed,
    IReadOnlyList<long> LastUses,
    DateTimeOffset ExpiresAt);
