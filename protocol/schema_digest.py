"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "cf650435095fcf66dd79b7823b26aa5b6c9a83ff61ad3afdf75125cb8a30a7d5"
