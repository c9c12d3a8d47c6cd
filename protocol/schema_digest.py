"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e4e7bde7e89b57e9621bba43985ca29a1eb760eee465240411a24b9a299f307b"
