"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "39f9d637666d418f2c373992dad4ffe57bba2d143255b5c3519cbcbd8d8f98a1"
