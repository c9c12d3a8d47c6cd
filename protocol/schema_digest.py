"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "957600f5f44469cde8600acc4894cdbaabf266fa4e94d1a505becb8cc0bdef2b"
