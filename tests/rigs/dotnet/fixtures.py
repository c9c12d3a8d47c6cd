"""Pytest fixtures: the toolchain and the runtime. A conftest.py imports what it needs by name."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rigs.dotnet import runtime
from tests.rigs.dotnet.build import REPOSITORY, ToolchainError, build, default_out
from tests.rigs.dotnet.toolchain import Toolchain
from tests.rigs.dotnet.toolchain import toolchain as find_toolchain

TEST_SECONDS = 120

Load = Callable[..., list[Path]]


@pytest.fixture(autouse=True)
def dotnet_watchdog() -> Iterator[None]:
    """End the run with all stacks where a test hangs.

    A Python function that the collector calls, as Hypothesis has one, lets go of the GIL amid the making of a binding,
    which pythonnet does under a lock of .NET's: another thread that wants that lock keeps the GIL, and both wait for ever.
    """
    callbacks, gc.callbacks[:] = gc.callbacks[:], []
    with runtime.watchdog(TEST_SECONDS):
        yield
    gc.callbacks[:] = callbacks


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """Return the toolchain; skip where it is impossible, but fail if CI is set."""
    try:
        return find_toolchain()
    except ToolchainError as reason:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(f"CI must run the C# tests: {reason}")
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def load(toolchain: Toolchain) -> Load:
    """Return ``load("csharp_host/…/X.csproj", …)``: builds, starts the runtime, adds the assemblies."""

    def load(*projects: str) -> list[Path]:
        assemblies = build([REPOSITORY / project for project in projects], default_out(), toolchain)
        runtime.start(toolchain)
        runtime.add(assemblies)
        return assemblies

    return load
