"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "8f436f2a96c3d1423c9ff00fd38af24fd9b6ca4fd91cda55f1dd0eb4e3461827"
