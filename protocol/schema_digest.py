"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "35e38e1f25e98c353d62b6dbc6eec2f1065f2e9d70bc327a6f43ebb5e02f2de8"
