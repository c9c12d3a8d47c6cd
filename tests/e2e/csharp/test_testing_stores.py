"""The stores of MemoryWorker.Testing: bounds, scopes and lifetimes without a process, by the test's own clock."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.clock import standing
from tests.e2e.csharp.host import Make, answer, call, real, wait
from tests.e2e.csharp.in_memory import TESTING, refusal

__all__ = ["real"]


def asked(service: Any, action: str, **data: Any) -> Any:
    return answer(call(service, f"store.{action}", store="s", **data))


def made(load: Any, clock: Any = None, **fields: Any) -> Any:
    """Return an in-memory worker; ``fields`` are assigned as an object initializer would."""
    load(TESTING)
    from MemoryWorker.Testing import InMemoryWorker

    one = InMemoryWorker(None, None, clock)
    for name, value in fields.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize("which", ["the worker itself", "in memory"])
def test_bytes_are_copied_in_and_out(request: pytest.FixtureRequest, load: Any, which: str) -> None:
    """An allocation's bytes are the entry's, whatever becomes of it, and come back as shared memory that is leased."""
    service = made(load) if which == "in memory" else real_one(request)
    shared = answer(call(service, "memory.allocate", size_bytes=5, memory_type="shared", device_id="cpu"))
    Path(shared["shared_memory"]["path"]).write_bytes(b"bytes")
    asked(service, "open", kind="cache")
    put = asked(service, "put", key="k", allocation_id=shared["allocation_id"])
    answer(call(service, "memory.deallocate", allocation_id=shared["allocation_id"]))
    found = asked(service, "get", key="k")
    assert (put["stored"], found["value"], found["shared_memory"]["size_bytes"]) == (True, None, 5)
    assert Path(found["shared_memory"]["path"]).read_bytes() == b"bytes"
    (row,) = answer(call(service, "memory.get_allocations"))["allocations"]
    assert (row["allocation_id"], row["purpose"]) == (found["allocation_id"], "store.get")
    assert 0 < row["lease_expires_in_ms"] <= 60_000
    wait(service.DisposeAsync())


def real_one(request: pytest.FixtureRequest) -> Any:
    start: Make = request.getfixturevalue("real")
    return start()


def test_lifetimes_run_by_the_clock(load: Any) -> None:
    """An entry's own, else its store's, else its kind's; a session's is renewed by its use, a cache's is not."""
    load(TESTING)
    from System import TimeSpan

    clock = standing()
    service = made(load, clock)
    asked(service, "open", kind="cache", options={"ttl_ms": 60_000})
    asked(service, "put", key="own", value=1, ttl_ms=30_000)
    asked(service, "put", key="its store's", value=1)
    answer(call(service, "store.open", store="chats", kind="sessions"))
    for key in ("used", "idle"):
        answer(call(service, "store.put", store="chats", key=key, value={}))
    clock.move(TimeSpan.FromSeconds(30))
    assert [one["key"] for one in asked(service, "list")["entries"]] == ["its store's"]
    assert asked(service, "get", key="its store's")["age_ms"] == 30_000
    answer(call(service, "store.get", store="chats", key="used"))
    clock.move(TimeSpan.FromSeconds(30))
    assert not asked(service, "get", key="its store's")["found"]
    clock.move(TimeSpan.FromMinutes(29))
    (left,) = answer(call(service, "store.list", store="chats"))["entries"]
    assert (left["key"], left["expires_in_ms"]) == ("used", 30_000)


def test_the_session_that_was_used_longest_ago_goes(load: Any) -> None:
    """Whatever it took to make."""
    service = made(load)
    asked(service, "open", kind="sessions", options={"max_entries": 2})
    asked(service, "put", key="a", value={}, cost_ms=1)
    asked(service, "put", key="b", value={}, cost_ms=1000)
    asked(service, "get", key="a")
    assert asked(service, "put", key="c", value={})["evicted_entries"] == 1
    assert [one["key"] for one in asked(service, "list")["entries"]] == ["a", "c"]


def test_what_persists_outlives_a_kill(load: Any) -> None:
    """As with ``--store-folder``: it is there once it is opened again; all else went with the worker."""
    service = made(load, HasStoreFolder=True)
    for store, persist in (("kept", True), ("lost", False)):
        answer(call(service, "store.open", store=store, kind="cache", options={"persist": persist}))
        answer(call(service, "store.put", store=store, key="k", value=store))
    service.Kill()
    assert refusal(call(service, "store.get", store="kept", key="k"))[0] == "store_not_found"
    for store, created in (("kept", False), ("lost", True)):
        assert (
            answer(call(service, "store.open", store=store, kind="cache", options={}))["created"] is created
        )
    assert answer(call(service, "store.get", store="kept", key="k"))["value"] == "kept"
    assert not answer(call(service, "store.get", store="lost", key="k"))["found"]
    answer(call(service, "store.close", store="kept"))
    gone = answer(call(service, "store.delete_scope", user_id="default_user"))
    assert (gone["stores"], gone["deleted_entries"]) == (["lost", "kept"], 1)
    assert answer(call(service, "store.open", store="kept", kind="cache"))["created"] is True


def test_a_host_tests_its_own_store(load: Any) -> None:
    """``MemoryStore`` opens by itself what it puts into, here as at the worker, and makes once."""
    service = made(load)
    from MemoryWorker.Client.Protocol import StoreKind
    from System import Func, String
    from System.Text.Json import JsonSerializerOptions
    from System.Threading import CancellationToken
    from System.Threading.Tasks import Task

    answers = service.Stores.Store("answers", StoreKind.Cache, None, None)
    text = JsonSerializerOptions.Default.GetTypeInfo(String)
    called: list[int] = []

    def once(_: Any) -> Any:
        called.append(1)
        return Task.FromResult[String]("made")

    maker = Func[CancellationToken, Task[String]](once)
    for _ in range(2):
        assert wait(answers.GetOrMakeAsync[String]("q", maker, text, None, None)) == "made"
    assert len(called) == 1


@pytest.mark.parametrize("kind", ["documents", "kv"])
def test_kinds_that_are_the_workers_own(load: Any, kind: str) -> None:
    """They are refused, and a test may say what they answer."""
    service = made(load)
    from MemoryWorker.Client.Protocol import WireActions
    from System import Func
    from System.Text.Json import JsonDocument, JsonElement

    code, details, _ = refusal(call(service, "store.open", store="s", kind=kind))
    assert (code, details) == ("unsupported", {"kind": kind})
    said = JsonDocument.Parse(json.dumps({"store": "s", "kind": kind, "created": True, "limit_bytes": 1}))
    service.Answer(WireActions.StoreOpen, Func[JsonElement, JsonElement](lambda _: said.RootElement))
    assert answer(call(service, "store.open", store="s", kind=kind))["created"] is True
