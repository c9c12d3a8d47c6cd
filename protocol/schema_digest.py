"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "97428ce696d71e1239f84e13adf1561626b53b78e5fffe25be1dcddd2fe5c3e3"
