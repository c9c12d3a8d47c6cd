"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "e813b3501d0a5dd41079d3af214f4999ede0136daad9d671cd10375b37d17e9e"
