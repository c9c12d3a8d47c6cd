"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "ec931742e763d0404f88b0661e5d5f79eb899d6db16abda119bb70e3065afc0e"
