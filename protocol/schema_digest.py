"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d6f8c5fe066fdb17904d2db0b0e63991b8d374140840514e0eaf3a00383c1513"
