"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e5e1b7696b77aa70e6902f9d08a3e9945fac35315c9614b93c6734d739f4fce8"
