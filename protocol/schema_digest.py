"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5a24ba32e7e8a4aec2600523855c774a7f9cf434e41a587c76af2817e274a136"
