"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "df387f8b066a01bf6a148d0e684ccb34dd8f9ce089b0d26337d85835ae68061e"
