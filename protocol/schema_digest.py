"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "b34f41893834d9118277f296c7868d9106fcce9644d6317a573956b20a6d4794"
