"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "760586c38302caa5ce4556394f2b83247d9b41f2eaaf809da68ff1db15a5b81b"
