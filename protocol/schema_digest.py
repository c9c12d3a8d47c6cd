"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5fc398687cccfc4d147e016ffc59f038e59cbf3b9424e28c2f78ec6df00dc271"
