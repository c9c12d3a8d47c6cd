"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "2ad81ae3f55f380a5c7ea5297a7f521ccb45071da1194992e6039d7b585f44ef"
