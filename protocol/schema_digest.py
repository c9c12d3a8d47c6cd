"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "4a91315b2f1ade934c842d7f8d7a5b1fec7cb5fbe48771094565314d19a8077c"
