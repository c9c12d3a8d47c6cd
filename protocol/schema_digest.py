"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "2225f6dbf734543f99764901b5e4b08abde22f7954537c1ac0284adab3be9f90"
