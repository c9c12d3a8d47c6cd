namespace MemoryWorker.Testing;

/// <summary>A call that came to an <see cref="InMemoryWorker"/>.</summary>
/// <param name="Action">As it is sent: <c>memory.allocate</c>.</param>
/// <param name="Data">What it carried: a record of <c>MemoryWorker.Client.Protocol</c>, or <c>JsonData</c>.</param>
public sealed record FakeRequest(string Action, object Data);
