"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "118ad168b56f6a6d96fe7439b799025b3585d3693e2b94cc743fabcc88c1d4a7"
