"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "9ec01424c862ffb1f0f85d1f66efe7c437a582ff19c017263454cc4bc0eba554"
