"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "3fd4dbace2622c98d498b57e890d9dd5ddd927dd7ddda99bbfa1876202845db5"
