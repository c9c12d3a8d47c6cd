"""A cluster of three nodes with real workers, and a gateway that several tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import Worker, eventually
from tests.rigs.fleet_cluster import START_SECONDS, FleetCluster
from tests.rigs.fleet_host import NODES, fleet, health, write_models


@pytest.fixture(scope="session")
def cluster() -> Iterator[FleetCluster]:
    """Return three of Ray's nodes."""
    made = FleetCluster()
    yield made
    made.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two small models."""
    return write_models(tmp_path_factory.mktemp("fleet-models"))


@pytest.fixture(scope="session")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the gateway lets live views in."""
    return tmp_path_factory.mktemp("fleet-socket") / "s"


@pytest.fixture(scope="session")
def shared_gateway(cluster: FleetCluster, models: Path, socket: Path) -> Iterator[Worker]:
    """Return a gateway that several tests use."""
    with fleet(cluster, models, "--monitor-socket", str(socket)) as gateway:
        gateway.call(
            "worker.subscribe", {"events": ["device.lost", "device.recovered", "memory.model_unloaded"]}
        )
        yield gateway
        gateway.close_input()
        assert gateway.exit_code(START_SECONDS) == 0


@pytest.fixture
def gateway(shared_gateway: Worker) -> Iterator[Worker]:
    """Return the gateway, with all nodes there, and nothing left on them."""
    eventually(
        lambda: all(health(shared_gateway, each) == "ok" for each in NODES), "all nodes", START_SECONDS
    )
    yield shared_gateway
    shared_gateway.call("memory.clear", {"clear_type": "all", "force": True})
