"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "61f12acd01f7c5d8ab313328cbbbf49e6841f5cb07c5d7b09c1e77418425fe2a"
