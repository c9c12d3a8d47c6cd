"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "735c2aec4ff8c3b1f2de594b8eb6c4d2bd17229ffb1e8787a5320f5d70a2c6b9"
