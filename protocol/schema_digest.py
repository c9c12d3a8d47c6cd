"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "3f0d6b061ba2f41b098c7f58aab426a6fa5fdcbcd84dc157276c68b53d4b8652"
