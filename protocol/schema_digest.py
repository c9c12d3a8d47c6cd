"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "deccc8b70e726b8150de1e0a3366c18bedb14c79ab0d6b62c685cd482cbdb96c"
