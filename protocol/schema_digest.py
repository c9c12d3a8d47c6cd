"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5f641b6b1d8b917ec7b33fb336defd0bc38f39225c29acceb57549f35ef0b89b"
