"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "0f94fb403e2a70d44e7e82012e0df0ede25d47c902e0f03681fed02b0eddcc38"
