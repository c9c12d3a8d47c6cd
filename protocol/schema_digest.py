"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d5d8159726d2c44d1c7877929119d424cf3b4c2aaffbb06e1aa605433e3840e7"
