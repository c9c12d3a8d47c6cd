"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "bc55837b8024c77daa391b2a25f55307fc63bd587173b293f45714ea78f197ef"
