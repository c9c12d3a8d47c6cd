"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "46c3dc09439c949edc10b78489bdb457644cde0e5270cc47b874623e771f795e"
