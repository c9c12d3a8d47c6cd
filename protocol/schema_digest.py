"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "bf17b75cc031e0b4d5fdabaec05a67b44275fb3c5ee63e47481605ca8cb04ae3"
