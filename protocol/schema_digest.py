"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "7fef8bc2ec234eaf08727cbf29e278b8f4789d75e9f92bba77fa7322a5453a2d"
