"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "0dc9615cc687e517d4f6801a97e15f33ff3dd51a0042c6f34731f509c7b54df3"
