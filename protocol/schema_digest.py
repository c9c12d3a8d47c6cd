"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "db03292f51dcb8dad5d67f7c5dbd7a6068fbb5e3412f91c2104ff772dc7b435a"
