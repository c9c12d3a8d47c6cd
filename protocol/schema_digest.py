"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "8fb23e3cd1627b452931f7c8b1108fe59aab50b4831c828c245ffb0e58e9c8f4"
