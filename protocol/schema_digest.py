"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "0ad2354d65d86a37e9d8ebafefb98557f75a4c5036a44de4584b0b937cfb939c"
