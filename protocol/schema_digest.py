"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e769521def6ce2c1d5277a2d84fe28cdbd4186bee73338a5f5f78250ec76b9fc"
