"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "a25bba0806bffa566228de2ee5a3435882ccd57aef616855910b2b2db3db7230"
