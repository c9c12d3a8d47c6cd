"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "6be8997de7012923b63f0b3114aaf091f8456c26c7a5ac3f05645b9af4403056"
