"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "414d29f19ea01ddc659439dcd5b6f34d15b745dcd07aabf5174aa9c3cb7ddae1"
