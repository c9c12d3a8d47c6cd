"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "a753d3345e4012b4b82b4325ac0c3a7acf52781898b7dbc87f3a1c315b1ee31a"
