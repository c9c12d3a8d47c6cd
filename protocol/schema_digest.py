"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "ffb2d13aa6b3163618d6b81b381cd2600182989a7d8261b138379c568d2b31c4"
