"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "0476b9381e83c4b6d1243d2e90b71a433c4404c5f34db415d945bff2eb4e67bc"
