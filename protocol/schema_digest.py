"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7ecf6e6df12af6df2cba302f9a29fba0ba4266751e18560b9b0d62ed901dcba1"
