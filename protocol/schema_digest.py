"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "6870d3572821ed70dbe6d8e1f3459c262f6a89aa1bf186ab2521b236530a371e"
