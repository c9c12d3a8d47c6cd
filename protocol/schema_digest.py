"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "19283b03313330d8305564fe96aafb7316e2d137b5002adeab54dbf31bae7e40"
