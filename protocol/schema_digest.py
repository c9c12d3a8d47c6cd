"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "73bc6f02d876ab8b645d706eb8622169e86ed5cf09e61cff5a00b94a055c6fe2"
