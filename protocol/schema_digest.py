"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "061032e0776c607645c958c33636dffb7e5f153b327419aaf0e0b286cb30c662"
