"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "22e7944ec4597352c8f4cf8e250681e83444cff46e54db0d0d5a20fe63794ba0"
