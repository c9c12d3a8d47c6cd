"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "065adc1320d7bcbbf99cde26e59cc5354b45cf87bedd7bea891b0f39ca343048"
