"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "fe01cb810b52151ad01f5f40bf9c2a67edb0d9ca1b0bbc1cd2479372f3df480f"
