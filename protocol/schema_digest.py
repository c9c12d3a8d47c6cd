"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "f62fc3d0036df6675a4c25d61c4d642a32840591f1928fdf7c55925ee9a9ab2b"
