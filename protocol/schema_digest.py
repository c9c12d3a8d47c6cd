"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "c170a0e8a21f5222562f44ea2a4b1573d56ce5fb3c6be09b8cf22665a5395514"
