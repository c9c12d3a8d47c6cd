"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "90018ba9f50b6411bad37e30c160cd85b3c8cc3fa046a4790b838a0742c062be"
