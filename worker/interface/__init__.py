"""All devices as one."""
