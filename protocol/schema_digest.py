"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "9526c4d63d2e305ec9b3d76545b8f3210724934f15eec309a096c1f43e40fae7"
