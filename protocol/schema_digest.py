"""Generated: the digest of all schemas, which ``worker.hello`` answers."""

SCHEMA_SHA256 = "df584fcbf78ac05c967dfd5cdd8ae673f11f08f622a7aa3fbf3e395b5e5780d3"
