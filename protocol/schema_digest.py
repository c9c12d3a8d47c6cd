"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7fd7216a5462d4e25f383c57259051b0f5cd7b24ff18c8bcda5e42d208c1a751"
