"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5686867da222144104c866cf1efaca4af4e15d40c3309acddcc358f783257e54"
