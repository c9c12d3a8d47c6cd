"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "6b4b703f05f99500d88287f12c73f7c1a2dc8792e8f80635baf4a1cb68b5100c"
