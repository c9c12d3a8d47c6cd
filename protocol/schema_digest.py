"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "cf3a266ae93b78bdcebd629cbe2166cb90a12c41afe5ba74342bda4507bcc340"
