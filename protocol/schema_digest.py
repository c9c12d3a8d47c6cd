"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "8c826072e8f28e90abe16d2b338281cdfd68c8206c93a0bbbb27eec6617c329a"
