"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e0eec1e1b2fae743b24524e0bd31c3b35bab32c5649379dd87bf8dec0a1a9daf"
