"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "adb25e5b514b17f1b24a1d268c868291add84fc94c1ea8bbf954bac7fcd4307a"
