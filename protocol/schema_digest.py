"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "98fb405c462ee8ea4f7ca2c31af5e69857094cdfc8c83a79bc2a48d925af6b39"
