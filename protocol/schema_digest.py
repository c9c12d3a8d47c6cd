"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "585e6b543f3aa66e2ad7323d15838699cb90faeed30f5424e5608280b17a4d5b"
