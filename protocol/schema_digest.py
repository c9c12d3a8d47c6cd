"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "9f51b753a1e7c0d9af84b416c89c5285a5f722fa580cbbb4361c19d202cbe3ac"
