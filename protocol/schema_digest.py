"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "1a28432019af407e5a5434ca2fca102ac9a95996e11536e0e75942fb8b99cb6c"
