"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "fbf204d287d9f19867ee27d2d363894d200cfc82c1c57cb6d0fb6eb04b1b8e98"
