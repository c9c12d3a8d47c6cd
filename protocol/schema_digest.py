"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "dd501f38c50a20a38c600b7564a930e9f6d8db5e006a31541352932c187635eb"
