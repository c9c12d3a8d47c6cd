"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "5dac4b194e7abafb420db845396f2edd4538d3a4705fac1fa021f5affc344eb3"
