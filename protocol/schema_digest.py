"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "ae368cc695c2aff31ff0faaa66a5c31d7c6f73708b514122cce64083955859db"
