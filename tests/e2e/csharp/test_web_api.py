"""The web sample: every operation of its document, and what it answers where it can't."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from protocol.actions import ACTIONS
from tests.e2e.csharp.host import FAKE, REPOSITORY
from tests.e2e.csharp.web_host import Answer, Web, web_host
from tests.rigs.dotnet.toolchain import Toolchain

PROJECT = "csharp_host/samples/WebApi/WebApi.csproj"
DOCUMENT = REPOSITORY / "csharp_host" / "samples" / "WebApi" / "openapi.json"
SAMPLES = REPOSITORY / "schemas" / "samples"
MIB = 2**20


@pytest.fixture(scope="module")
def web(toolchain: Toolchain) -> Iterator[Web]:
    """Start the host."""
    with web_host(toolchain, PROJECT) as host:
        yield host


@pytest.fixture(scope="module")
def client(web: Web) -> "Client":
    """Return a client that knows the host by nothing but its document."""
    return Client(web)


class Client:
    """Makes each operation as the document says, and holds each answer to it."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.document: Any = web.answer("GET", "/openapi.json").body
        self.operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
        }

    def call(self, name: str, /, **arguments: Any) -> Answer:
        """Make an operation; the answer has a status and a form that the document has."""
        method, path, operation = self.operations[name]
        query = []
        for parameter in operation.get("parameters", ()):
            value = arguments.pop(parameter["name"], None)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=""))
            elif value is not None:
                query += [(parameter["name"], one) for one in (value if isinstance(value, list) else [value])]
        body = arguments if "requestBody" in operation else None
        assert body is not None or not arguments, arguments
        said = [(key, str(one).lower() if isinstance(one, bool) else one) for key, one in query]
        answer = self.web.answer(method, f"{path}?{urlencode(said)}" if said else path, body)
        self._check(operation["responses"], answer)
        return answer

    def _check(self, responses: Any, answer: Answer) -> None:
        told = responses.get(str(answer.status)) or responses["default"]
        told = self._resolved(told)
        kind = answer.headers["content-type"].partition(";")[0]
        schema = told["content"][kind]["schema"]
        Draft202012Validator(schema | {"components": self.document["components"]}).validate(answer.body)

    def _resolved(self, told: Any) -> Any:
        if "$ref" not in told:
            return told
        found = self.document
        for part in told["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return found


def test_the_document_is_valid(client: Client) -> None:
    """By OpenAPI's own rules; it is the one that is generated, and has every action that is not the host's own."""
    validate(client.document)
    assert client.document == json.loads(DOCUMENT.read_text(encoding="utf-8"))
    actions = {name for name, action in ACTIONS.items() if not action.control}
    assert actions == {name for name in client.operations if "." in name}


def test_every_operation(client: Client) -> None:
    """A client that is driven by the document makes each; what no step here makes is made from its valid sample."""
    made = client.call("memory.allocate", size_bytes=MIB, device_id="sim:0", owner="web", lease_ms=60_000)
    assert (made.status, made.body["available_bytes"]) == (200, 63 * MIB)
    held = made.body["allocation_id"]
    moved = client.call(
        "memory.transfer", source_allocation_id=held, destination_device_id="cpu", verify=True
    )
    transfer = moved.body["transfer_id"]
    registered = {
        "consumer_id": "cache",
        "held_bytes": MIB,
        "device_id": "cpu",
        "kind": "cache",
        "offers": [],
    }
    steps: list[tuple[str, dict[str, Any]]] = [
        ("memory.get_status", {"device_id": "sim:0", "include_allocations": True}),
        ("memory.get_usage", {"group_by": "purpose"}),
        ("memory.get_allocations", {"owner": "web", "limit": 1}),
        ("memory.renew_lease", {"allocation_id": held, "lease_ms": 60_000}),
        ("memory.get_transfer", {"transfer_id": transfer}),
        ("memory.get_model_status", {}),
        ("memory.model_optimize", {"dry_run": True}),
        ("memory.get_pressure", {"device_id": "cpu"}),
        ("memory.get_analytics", {"time_range": "1m", "include": ["actions", "timeline"]}),
        ("memory.get_metrics", {}),
        ("memory.get_optimization_recommendations", {}),
        ("memory.plan", {"candidates": [{"name": "one", "required_bytes": MIB}]}),
        ("memory.plan_batches", {"item_count": 10, "bytes_per_item": MIB, "device_id": "sim:0"}),
        ("memory.set_limits", {"device_id": "sim:0", "limit_bytes": 32 * MIB}),
        ("memory.set_limits", {"device_id": "sim:0", "limit_bytes": None}),
        ("memory.register_consumer", registered),
        ("memory.get_consumers", {"kind": "cache"}),
        ("memory.released", {"consumer_id": "cache", "bytes": 0}),
        ("memory.unregister_consumer", {"consumer_id": "cache"}),
        ("memory.optimize", {"dry_run": True}),
        ("memory.defragment", {"device_id": "sim:0"}),
        ("memory.deallocate", {"allocation_id": held}),
        ("memory.clear", {"clear_type": "allocations"}),
        ("metrics", {}),
        ("monitoring", {}),
        ("health", {}),
        ("live", {}),
    ]
    for name, arguments in steps:
        answer = client.call(name, **arguments)
        assert answer.status == 200, (name, answer.body)
    stepped = {name for name, _ in steps} | {"memory.allocate", "memory.transfer", "events"}
    for name in client.operations.keys() - stepped:
        answer = client.call(name, **sample(name))
        assert answer.status < 500 and (answer.status == 200 or answer.body["code"]), (name, answer.body)


def sample(action: str) -> dict[str, Any]:
    """Return what an action can take."""
    found: list[Path] = sorted(SAMPLES.glob(f"{ACTIONS[action].params.__name__}-valid-*.json"))
    told: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "says"),
    [
        ("POST", "allocate", b'{"size_bytes": 1', 400, "invalid_json", "LineNumber: 0"),
        ("POST", "allocate", b'{"size_bytes": 1, "owner": "\xff"}', 400, "invalid_json", "not JSON"),
        ("POST", "allocate", rb'{"size_bytes": 1, "owner": "\ud800"}', 400, "invalid_json", "surrogate"),
        ("POST", "allocate", b"[1]", 400, "invalid_request", "this is Array"),
        ("POST", "allocate", {"size_bytes": "much"}, 400, "invalid_request", "data.size_bytes"),
        ("POST", "allocate", {"size_bytes": 1, "memory_type": "tape"}, 400, "invalid_request", "'device'"),
        ("GET", "usage?group_by=colour", None, 400, "invalid_request", "data.group_by"),
        ("GET", "allocations?limit=many", None, 400, "invalid_request", "data.limit"),
        ("GET", "status?nonsense=1", None, 400, "invalid_request", "data.nonsense"),
        ("GET", "status?device_id=cuda:9", None, 404, "device_not_found", "there are cpu, sim:0"),
        ("GET", "status?device_id=node-1%2Fcuda:0", None, 404, "device_not_found", "'node-1/cuda:0'"),
        ("GET", "transfer/node-1%2ftransfer-9", None, 404, "invalid_request", "'node-1/transfer-9'"),
        ("GET", "allocations?allocation_id=alloc-999", None, 404, "allocation_not_found", "never existed"),
        ("POST", "deallocate", {"allocation_id": "alloc-999"}, 404, "allocation_not_found", "never existed"),
        ("GET", "transfer/transfer-999", None, 404, "invalid_request", "no transfer"),
        ("GET", f"transfer/{'x' * 257}", None, 400, "invalid_request", "at most 256"),
        ("GET", "transfer/transfer-1?transfer_id=transfer-2", None, 400, "invalid_request", "in the path"),
        ("POST", "plan_batches", {"plan_id": "batches-9"}, 404, "plan_stale", "never was"),
        ("POST", "allocate", {"size_bytes": 1, "plan_id": "plan-9"}, 404, "plan_stale", "never was"),
        ("GET", "model_status?model_id=none", None, 404, "model_not_found", "no model"),
        ("POST", "released", {"consumer_id": "none", "bytes": 1}, 404, "consumer_not_found", "none"),
        (
            "POST",
            "allocate",
            {"size_bytes": 65 * MIB, "device_id": "sim:0"},
            507,
            "out_of_memory",
            "headroom",
        ),
    ],
)
def test_what_is_refused_is_problem_details(
    web: Web, method: str, path: str, body: Any, status: int, code: str, says: str
) -> None:
    """With the status that fits, the worker's code and its reason, which names what was wrong."""
    answer = web.answer(method, f"/api/memory/{path}", body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status, answer.body["status"], answer.body["code"]) == (status, status, code), answer.body
    assert says in answer.body["detail"]


def test_what_no_operation_is_asked(web: Web) -> None:
    """Another type of body, another address, another method: problem details as well."""
    plain = web.answer("POST", "/api/memory/allocate", b"size", {"Content-Type": "text/plain"})
    assert (plain.status, plain.body["code"]) == (415, "invalid_request")
    for method, path, status in (("GET", "/api/memory/nothing", 404), ("DELETE", "/api/memory/status", 405)):
        answer = web.answer(method, path)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.body["status"] == status


@pytest.mark.parametrize(("kind", "status"), [(None, 415), ("application/json", 200)])
def test_a_body_of_unknown_length(web: Web, kind: str | None, status: int) -> None:
    """It is a body all the same: read where it is JSON, and not passed over where nothing says what it is."""
    told = {} if kind is None else {"Content-Type": kind}
    answer = web.chunked("POST", "/api/memory/clear", [b'{"device_id": ', b'"cpu"}'], told)
    assert answer.status == status, answer.body


def test_a_body_may_be_left_out_where_all_of_it_may(web: Web) -> None:
    """An action that needs nothing is asked with nothing."""
    assert web.ask("POST", "/api/memory/clear")[0] == 200
    assert web.ask("POST", "/api/memory/allocate")[0] == 400


def test_a_refusal_is_one_line_of_the_log(toolchain: Toolchain) -> None:
    """It is no unhandled exception, and has no stack."""
    with web_host(toolchain, PROJECT) as web:
        assert web.ask("GET", "/api/memory/status?device_id=cuda:9")[0] == 404
        log = web.log_until("was answered 404")
    assert "GET /api/memory/status was answered 404: no device 'cuda:9'" in log
    assert "nhandled" not in log
    assert "   at " not in log


def test_an_open_breaker_says_when_to_come_again(toolchain: Toolchain) -> None:
    """503 with ``Retry-After`` in whole seconds; health is bad, the host itself lives."""
    options = ("--MemoryWorker:StartWithHost=false", "--MemoryWorker:MaxRestarts=0")
    with web_host(toolchain, PROJECT, *options, "--MemoryWorker:FileName=/no/such/python") as web:
        for _ in range(3):
            answer = web.answer("GET", "/api/memory/status")
            assert (answer.status, answer.body["code"]) == (503, "worker_start_failed")
        for path in ("/api/memory/status", "/api/events", "/api/events?event=memory.figures"):
            answer = web.answer("GET", path)
            assert (answer.status, answer.body["code"]) == (503, "worker_start_failed"), path
            assert answer.headers["content-type"] == "application/problem+json"
            assert 0 < int(answer.headers["retry-after"]) <= 30
        health = web.answer("GET", "/health")
        assert (health.status, health.body["parts"]["memory_worker"]["status"]) == (503, "unhealthy")
        assert health.body["parts"]["devices"]["description"] == "not known: the worker is BreakerOpen"
        assert web.ask("GET", "/health/live") == (200, {"status": "healthy", "parts": {}})


@pytest.mark.parametrize("fault", ["no executable", "no folder", "ends", "no environment"])
def test_what_was_started_and_where_stays_with_the_host(
    toolchain: Toolchain, tmp_path: Path, fault: str
) -> None:
    """A start that fails is told in a sentence; the command, the folder and the remedy are in the log."""
    hidden = tmp_path / "hunter2"
    (tmp_path / "worker.py").write_text("raise SystemExit(3)\n")
    options = {
        "no executable": ["FileName=" + str(hidden)],
        "no folder": ["WorkingDirectory=" + str(hidden)],
        "ends": [f"Arguments:0={tmp_path / 'worker.py'}", "Arguments:1=hunter2"],
        "no environment": [f"Python:Interpreter={hidden}"],
    }[fault]
    always = ["StartWithHost=false", "MaxRestarts=0"]
    with web_host(toolchain, PROJECT, *(f"--MemoryWorker:{one}" for one in [*options, *always])) as web:
        answers = [
            web.answer("GET", path)
            for path in ("/api/memory/status", "/api/events", "/monitoring/memory", "/metrics", "/health")
        ]
        log = web.log_until("hunter2")
    assert [answer.status for answer in answers] == [503] * 5
    assert answers[0].body["detail"].startswith("the worker ")
    assert "failed too often" in answers[1].body["detail"]
    assert not any(word in str(answers) for word in ("hunter2", sys.executable, str(REPOSITORY))), answers
    assert "nhandled" not in log


@pytest.mark.parametrize("moment", ["at its start", "while it works"])
def test_what_the_worker_wrote_last_stays_with_the_host(
    toolchain: Toolchain, tmp_path: Path, moment: str
) -> None:
    """Its stderr may have anything in it: the log has it, and no answer."""
    dying = ["--die-on", "memory.get_status", "--deaths", "1000", "--journal", str(tmp_path / "journal")]
    (tmp_path / "worker.py").write_text(
        "import runpy, sys\nprint('password=hunter2', file=sys.stderr)\n"
        f"sys.argv[1:] = {['--traceback'] if moment == 'at its start' else dying}\n"
        f"runpy.run_path({FAKE!r}, run_name='__main__')\n"
    )
    options = (
        f"--MemoryWorker:Arguments:0={tmp_path / 'worker.py'}",
        "--MemoryWorker:Arguments:1=",
        "--MemoryWorker:StartWithHost=false",
    )
    with web_host(toolchain, PROJECT, *options) as web:
        paths = ("/api/memory/status", "/monitoring/memory", "/metrics", "/health")
        answers = [web.answer("GET", path) for path in paths]
        log = web.log_until("hunter2")
    assert answers[0].body["code"] == ("worker_start_failed" if moment == "at its start" else "worker_exited")
    assert "hunter2" not in str(answers)
    assert "nhandled" not in log


def test_health_names_the_part(toolchain: Toolchain) -> None:
    """A device that runs full degrades the pressure, not the worker, and is named."""
    with web_host(toolchain, PROJECT) as web:
        web.ask("POST", "/api/memory/allocate", {"size_bytes": 63 * MIB, "device_id": "sim:0"})
        status, answer = web.ask("GET", "/health")
    assert (status, answer["status"]) == (200, "degraded")
    parts = {name: part["status"] for name, part in answer["parts"].items()}
    assert parts == {"memory_worker": "healthy", "devices": "healthy", "pressure": "degraded"}
    assert answer["parts"]["pressure"]["data"]["sim:0"] == "critical"
    assert answer["parts"]["pressure"]["description"].startswith("sim:0 is at 98.")


def test_metrics_are_for_a_collector(web: Web) -> None:
    """OpenMetrics as it stands, with its type."""
    answer = web.answer("GET", "/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(answer.body)}
    assert "memory_worker_device_allocated_bytes" in names


def test_monitoring_in_one_answer(web: Web) -> None:
    """The worker, its devices, their pressure and the models."""
    _, answer = web.ask("GET", "/monitoring/memory")
    assert (answer["worker"]["state"], answer["worker"]["process_id"]) == ("running", web.worker())
    assert [one["device_id"] for one in answer["memory"]["devices"]] == ["cpu", "sim:0"]
    assert answer["pressure"]["pressure_level"] == "low"
    assert answer["models"]["models"] == []
