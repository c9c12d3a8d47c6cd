"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "6bf09c3c1b39e4a0ccc02e597d89e4676294f9b2ccaddaf4fec5c9594e4033b7"
