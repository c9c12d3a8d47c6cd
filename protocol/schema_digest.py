"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "24d874f7f0d59c55a1f2cfe33eabcac7552e30860a1beeca65035cd79214357a"
