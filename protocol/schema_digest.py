"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "a573465704d1813e2c0aa02b19ee6698ebae14a6281c613ed1ef9d09e9d35a34"
