"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "33438fde8e1f9e1b9e078c89269ad4aa3d1d4112a14c956124bff366805b2c5b"
