"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d23c64bf5804747e56f41bf121d0bea1d22ff9ae507b73a13cac55c27a5c69e8"
