"""The host that existing callers move to: their call sites and routes, as they are, against the worker itself."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import run_probe
from tests.e2e.csharp.web_host import Web, web_host
from tests.rigs.dotnet.toolchain import Toolchain

PROJECT = "csharp_host/samples/ApiResponseHost/ApiResponseHost.csproj"
MIB = 2**20


@pytest.fixture(scope="module")
def seen(toolchain: Toolchain) -> dict[str, Any]:
    """Run the call sites once and return what each was answered."""
    return run_probe(
        toolchain, "ApiResponseProbe", sys.executable, "-m", "worker", "--simulated-device", "64MiB"
    )


@pytest.fixture(scope="module")
def web(toolchain: Toolchain) -> Iterator[Web]:
    """Start the host."""
    with web_host(toolchain, PROJECT) as host:
        yield host


def test_every_method_answers(seen: dict[str, Any]) -> None:
    """With the trailing device where there is one."""
    assert (seen["status"], seen["status of"], seen["status device"]) == (["cpu", "sim:0"], 1, "sim:0")
    assert (seen["usage"], seen["usage of"]) == (2, "sim:0")
    assert (seen["allocations"], seen["allocations of"], seen["allocation"]) == (4, 2, MIB)
    assert (seen["transfer"], seen["transfer status"], seen["copy"]) == (True, "Completed", "sim:0")
    assert (seen["deallocate"], seen["delete"]) == (MIB, 2 * MIB)
    assert (seen["clear of"], seen["clear"]) == (MIB, 3)
    assert (seen["pressure"], seen["pressure of"], seen["analytics"]) == (2, "sim:0", True)
    for name in ("optimize", "defragment", "defragment of", "models", "model optimization", "optimization"):
        assert seen[name] == "ok", name


def test_what_those_hosts_call_memory(seen: dict[str, Any]) -> None:
    """GPU is the default accelerator, VRAM its own memory, RAM the host's; a device that is named goes first."""
    assert seen["allocate"] == {"DeviceId": "sim:0", "Type": "Device"}
    assert seen["allocate VRAM"] == {"DeviceId": "sim:0", "Type": "Device"}
    assert seen["allocate RAM"] == {"DeviceId": "cpu", "Type": "Host"}
    assert seen["allocate on the CPU"] == "cpu"
    assert seen["status of GPU"] == "sim:0"


@pytest.mark.parametrize(
    ("name", "code", "status", "says"),
    [
        ("status of none", "device_not_found", 404, "there are cpu, sim:0"),
        ("allocate too much", "out_of_memory", 507, "68157440 asked for"),
        ("allocate nothing", "invalid_request", 400, "data.size_bytes"),
        ("allocation of none", "allocation_not_found", 404, "never existed"),
        ("transfer of none", "invalid_request", 404, "no transfer 'transfer-99"),
        ("allocate HBM", "invalid_request", 400, "none of GPU, VRAM, RAM"),
        ("allocate null", "invalid_request", 400, "MemoryType '' is none of GPU"),
        ("defragment null", "invalid_request", 400, "'' is none of all"),
        ("clear null", "invalid_request", 400, "'' is none of all"),
        ("optimize null", "invalid_request", 400, "name is empty"),
        ("transfer null", "invalid_request", 400, "name is empty"),
        ("copy null", "invalid_request", 400, "data.source_allocation_id"),
        ("transfer of no such size", "allocation_not_found", 404, "has 7 bytes"),
        ("transfer of one of two", "invalid_request", 409, "say which with AllocationId"),
        ("copy into an allocation", "unsupported", 400, "name a device"),
        ("optimize speed", "device_not_found", 404, "no device 'speed'"),
        ("clear of what is not there", "invalid_request", 400, 'say "all"'),
        ("after shutdown", "shutting_down", 503, "start the host anew"),
    ],
)
def test_a_refusal_is_an_answer(seen: dict[str, Any], name: str, code: str, status: int, says: str) -> None:
    """Nothing is thrown: the worker's code and reason, or why a request of the older kind can't be mapped."""
    found = seen[name]
    assert (found[0], found[1]) == (code, status)
    assert says in found[2]
    assert found[3] in ("no", None)


def test_commands_by_name(seen: dict[str, Any]) -> None:
    """An older spelling, a whole request, plain and typed answers; what can't be meant is said."""
    succeeded, allocation_id, size, no_error = seen["execute"]
    assert (succeeded, allocation_id[:6], size, no_error) == (True, "alloc-", 4096, True)
    assert seen["execute refused"] == [True, "invalid_request", 400]
    assert seen["execute unknown"].startswith("no action 'memory.polish'")
    assert seen["execute elsewhere"] == "there is no worker 'inference' here: this one is 'memory'"
    assert seen["execute bare"].startswith("the request is String, and the worker takes an object")
    assert seen["execute no word"].startswith('action is {"name":"status"}, and the worker takes a word')
    assert (seen["execute typed"], seen["execute typed refused"]) == ("sim:0", "device_not_found")
    assert seen["raw"] is True


def test_the_workers_life(seen: dict[str, Any]) -> None:
    """It is started, asked after and ended; an ended one is not available and not started again."""
    assert (seen["initialized"], seen["available"], seen["other available"]) == (True, True, False)
    assert seen["health"] == "Running"
    assert (seen["shut down"], seen["initialized again"]) == (False, False)


def asked(web: Web, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    """Return ``data``, or ``error`` of an answer that has to have this status."""
    answer = web.answer(method, f"/api/memory/{path}", body)
    assert answer.status == status, answer.body
    assert answer.body["isSuccess"] == (status == 200)
    assert answer.body["timestamp"].endswith("Z")
    assert len(answer.body["correlationId"]) == 32
    if status == 200:
        assert answer.body["error"] is None
        return answer.body["data"]
    assert answer.body["error"]["statusCode"] == status
    return answer.body["error"]


def test_every_route(web: Web) -> None:
    """Each under its address, with the bodies that those hosts send."""
    assert [one["deviceId"] for one in asked(web, "GET", "status")["devices"]] == ["cpu", "sim:0"]
    assert asked(web, "GET", "status/sim:0")["device"]["kind"] == "simulated"
    made = asked(web, "POST", "allocations/allocate", {"sizeBytes": MIB, "memoryType": "GPU"})
    assert (made["deviceId"], made["success"]) == ("sim:0", True)
    second = asked(web, "POST", "allocations/allocate/cpu", {"SizeBytes": 2 * MIB})
    assert second["deviceId"] == "cpu"
    assert len(asked(web, "GET", "usage")["devices"]) == 2
    assert asked(web, "GET", "usage/sim:0")["devices"][0]["groups"][0]["allocatedBytes"] == MIB
    assert len(asked(web, "GET", "allocations")["allocations"]) == 2
    [held] = asked(web, "GET", "allocations/device/cpu")["allocations"]
    assert held["allocationId"] == second["allocationId"]
    assert asked(web, "GET", f"allocation/{held['allocationId']}")["allocation"]["sizeBytes"] == 2 * MIB
    moved = asked(
        web,
        "POST",
        "transfer",
        {"sourceDeviceId": "GPU", "targetDeviceId": "cpu", "sizeBytes": MIB},
    )
    assert moved["state"] == "completed"
    assert asked(web, "GET", f"transfer/{moved['transferId']}")["completedBytes"] == MIB
    assert asked(web, "DELETE", f"allocations/{held['allocationId']}")["freedBytes"] == 2 * MIB
    asked(web, "POST", "operations/defragment", {"memoryType": "GPU"})
    asked(web, "POST", "operations/defragment/cpu", {})
    assert (
        asked(web, "POST", "operations/clear/sim:0", {"memoryType": "all", "force": True})["clearedBytes"]
        == MIB
    )
    assert asked(web, "POST", "operations/clear", {})["allocationsFreed"] == 1


def test_a_refusal_has_its_status(web: Web) -> None:
    """Over HTTP as well as in the answer; what could not be read is answered in the same form."""
    too_much = {"sizeBytes": 65 * MIB}
    error = asked(web, "POST", "allocations/allocate", too_much, 507)
    assert (error["code"], error["details"]["executed"]) == ("out_of_memory", "no")
    assert asked(web, "DELETE", "allocations/alloc-999", None, 404)["code"] == "allocation_not_found"
    assert asked(web, "GET", "transfer/transfer-999", None, 404)["code"] == "invalid_request"
    assert asked(web, "GET", "status/cuda:9", None, 404)["code"] == "device_not_found"
    assert "'node-1/cuda:0'" in asked(web, "GET", "status/node-1%2Fcuda:0", None, 404)["message"]
    assert "sizeBytes" in asked(web, "POST", "allocations/allocate", {"sizeBytes": "much"}, 400)["message"]
    asked(web, "POST", "allocations/allocate", b'{"sizeBytes": 1', 400)
    answer = web.answer("POST", "/api/memory/operations/clear", b"all", {"Content-Type": "text/plain"})
    assert (answer.status, answer.body["error"]["statusCode"]) == (415, 415)
    for body in (b"null", b"", b'{"memoryType": null}'):
        asked(web, "POST", "operations/clear", body, 400)
    asked(web, "GET", "nothing/here", None, 404)
    asked(web, "PUT", "status", {}, 405)


def test_what_was_started_and_where_stays_with_the_host(toolchain: Toolchain, tmp_path: Path) -> None:
    """A start that fails is told in a sentence; the log has the command."""
    options = (
        "--MemoryWorker:StartWithHost=false",
        "--MemoryWorker:MaxRestarts=0",
        f"--MemoryWorker:FileName={tmp_path / 'hunter2'}",
    )
    with web_host(toolchain, PROJECT, *options) as web:
        errors = [asked(web, "GET", "status", None, 503) for _ in range(2)]
        log = web.log_until("hunter2")
    assert [error["code"] for error in errors] == ["worker_start_failed"] * 2
    assert errors[0]["message"] == "the worker did not start"
    assert errors[1]["message"].endswith("the last time: the worker did not start")
    assert str(tmp_path) not in str(errors)
    assert "could not be started" in log
