"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "a2e0464845cad894f874f04cd28c5e2621827c7d8fb3b200c4346debe3ab08f6"
