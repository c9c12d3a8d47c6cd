"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5ec355ceb60fda531a6ae69d9f793995fc5187d85920c5ec4577a6188f8c16d7"
