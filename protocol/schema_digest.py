"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d4064a3dec9e46f42a56ed3782ec9237de83ae8e129639e4b948cda942be715e"
