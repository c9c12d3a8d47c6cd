"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e0b45beeb39b205aecd41175132790739b86e5281dc563bfee4f77c20f589f0e"
