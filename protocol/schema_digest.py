"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "6861c7b6eb5747931f2be5e659aae0340101d5e037121e8de811a919ae93e681"
