"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7234508e9855ece751712430a45c9f55b5985385a7866a0557d52f6ba7d9cfe2"
