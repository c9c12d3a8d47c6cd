"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7f83c2911b38f037bd265f874e7c126c5c4a58733f93048d6b59113a1e9e5d7a"
