"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "81c82b1c94787e46d39602837b95fe37b5d2f1e48c7365e7d3cc64093f326e53"
