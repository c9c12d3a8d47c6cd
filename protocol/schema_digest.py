"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "9699432d3af301d68fe2a121f05ffcf304a454ad7e956d27056724df077998fc"
