"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "fa126fb0a5e448fc41c96fd3789ffa2dbfc5f2a96b9eb5961f488d9994de4a6c"
