"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d9cdf00a581f88da84d9b49dec035a78a5bd190cb2480bfc3a3c5b7315b7dc73"
