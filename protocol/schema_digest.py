"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "d038040f157b37beec1d35642207a88fca7012437c912f19eddfaa6af9fa79c9"
