"""The client's assembly in this process, and the rules that keep a stuck one from stopping the run."""

import importlib
from types import ModuleType

import pytest

from tests.e2e.csharp.packed import dist, unpacked
from tests.rigs.dotnet import runtime
from tests.rigs.dotnet.fixtures import Load, dotnet_watchdog, load, toolchain

__all__ = ["dist", "dotnet_watchdog", "load", "protocol", "toolchain", "unpacked"]

CLIENT = "csharp_host/src/MemoryWorker.Client/MemoryWorker.Client.csproj"


def pytest_configure() -> None:
    """Keep the real stderr while nothing is captured yet."""
    runtime.arm()


@pytest.fixture(scope="session")
def protocol(load: Load) -> ModuleType:
    """Return the namespace of the generated types."""
    load(CLIENT)
    return importlib.import_module("MemoryWorker.Client.Protocol")
