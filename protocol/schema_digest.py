"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "2d4901cba459c8f62290a78915246931fbffe199b73774b52b0f68f7545ff33f"
