"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "c865f3be0641b5056888df8fca5488ad319c724e96e9113f3ad602d77c529c5b"
