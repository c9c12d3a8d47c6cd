"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7ed9690e8405bd0a2a5ec3702c3b97b879a39b528ee257347090a6fba94a0db3"
