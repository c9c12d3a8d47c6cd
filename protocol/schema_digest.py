"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "f71c8c01aeec842387ecfc0f4e6dcc5d74e6d972b08160aaeeda962d03ffd189"
