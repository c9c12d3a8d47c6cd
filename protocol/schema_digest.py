"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "8256eda7faeed739822f2d9fcf4c7285195a77881613a5bf75edbd7f69728d9a"
