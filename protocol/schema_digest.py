"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "f021a1f2b5ef20a641dc7570465d26ca8dc790c9ee3ee4f233f04777414a632c"
