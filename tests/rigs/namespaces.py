"""A worker in a machine of another shape: its own mounts, where something is missing or can't be written to."""

import shlex
import subprocess
import sys

import pytest


def with_mounts(*commands: str) -> tuple[str, ...]:
    """Return what starts a worker after these commands, which may mount. Skips where this user may not."""
    start = ["unshare", "--mount", "--map-root-user", "--user"]
    for words in (start[:2], start):  # root needs no user namespace, and others may have none
        try:
            done = subprocess.run(
                [*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("namespaces are Linux's")
        if done.returncode == 0:
            script = " && ".join((*commands, f'exec {shlex.quote(sys.executable)} -m memory_worker "$@"'))
            return (*words, "sh", "-c", script, "sh")
    pytest.skip(f"this user may not mount: {done.stderr.decode().strip()}")
