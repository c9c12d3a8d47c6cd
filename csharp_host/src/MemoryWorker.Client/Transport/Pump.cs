namespace MemoryWorker.Client.Transport;

/// <summary>Reads a pipe to its end, without holding a thread of the pool while there is nothing to read.</summary>
internal static class Pump
{
    /// <summary>On Windows these pipes know no overlapped reads: ReadAsync would block a thread of the pool for good.</summary>
    internal static bool UseOwnThreads { get; set; } = OperatingSystem.IsWindows();

    /// <summary>Completes at the end of the stream, or when the token is cancelled. Does not throw.</summary>
    public static Task RunAsync(Stream stream, LineFramer framer, string name, CancellationToken cancellationToken) =>
        UseOwnThreads ? OnOwnThread(stream, framer, name) : ReadAsync(stream, framer, cancellationToken);

    private static async Task ReadAsync(Stream stream, LineFramer framer, CancellationToken cancellationToken)
    {
        try
        {
            while (true)
            {
                var count = await stream.ReadAsync(framer.GetMemory(), cancellationToken).ConfigureAwait(false);
                if (count == 0)
                {
                    break;
                }

                framer.Advance(count);
            }
        }
        catch (Exception problem) when (problem is IOException or OperationCanceledException or ObjectDisposedException)
        {
            // The pipe broke, or nobody wants the rest: the same as its end.
        }

        framer.Complete();
    }

    private static Task OnOwnThread(Stream stream, LineFramer framer, string name)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var thread = new Thread(Read) { IsBackground = true, Name = name };
        thread.Start();
        return done.Task;

        void Read()
        {
            try
            {
                int count;
                while ((count = stream.Read(framer.GetMemory().Span)) > 0)
                {
                    framer.Advance(count);
                }
            }
            catch (Exception problem) when (problem is IOException or ObjectDisposedException)
            {
                // The pipe broke or was closed: the same as its end.
            }

            framer.Complete();
            done.SetResult();
        }
    }
}
