"""The golden conversations driven from the host: what it sends is what stands there, and it reads each answer whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protocol.actions import ACTIONS
from protocol.envelope import Request
from tests.contract.golden_files import FOLDER, Golden, goldens
from tests.e2e.csharp.host import Make, execute, fake, wait
from tests.e2e.csharp.wire import same

__all__ = ["fake"]

Json = dict[str, Any]

ASKED_AGAIN = {"overloaded", "shutting_down"}
"""Not executed, and over soon: the host sends the request again by itself."""
ABOUT_LINES = {"frame_too_large", "invalid_json", "invalid_request"}
"""Conversations of lines that this host does not write."""


def conversation(golden: Golden) -> Iterator[tuple[Json, Json]]:
    """Yield each request that a host could send, with its terminal reply."""
    replies = [
        line for line in map(json.loads, golden.answered.read_bytes().splitlines()) if "success" in line
    ]
    for line in golden.sent.read_bytes().splitlines():
        request = request_of(line)
        if request is None:
            continue
        at = next((n for n, one in enumerate(replies) if one["request_id"] == request["request_id"]), None)
        reply = None if at is None else replies.pop(at)
        if reply is not None and reply.get("error", {}).get("code") not in ASKED_AGAIN:
            yield request, reply


def request_of(line: bytes) -> Json | None:
    """Return a line that is a request of a known action; None for any other."""
    try:
        request = json.loads(line)
        Request.model_validate(request)
    except (ValueError, RecursionError):
        return None
    return request if request["action"] in ACTIONS else None


@pytest.mark.parametrize(
    "golden", [one for one in goldens() if one.name not in ABOUT_LINES], ids=lambda golden: golden.name
)
def test_the_host_holds_the_conversation(fake: Make, protocol: ModuleType, golden: Golden) -> None:
    """Each request goes out typed, as it stands; each answer comes back whole, each error with its code."""
    from System.Threading import Timeout

    exchanges = list(conversation(golden))
    service = fake("--play", str(golden.sent), str(golden.answered), RequestTimeout=Timeout.InfiniteTimeSpan)
    for request, reply in exchanges:
        outcome = exchange(service, protocol, request)
        if reply["success"]:
            assert same(outcome, reply["data"])
        else:
            error = reply["error"]
            assert outcome == (
                error["code"],
                error["message"],
                error["executed"],
                error["retryable"],
                error["details"],
            )
    assert service.Snapshot.JunkLines == 0


def exchange(service: Any, protocol: ModuleType, request: Json) -> Any:
    """Return the data of the answer, or what its error says."""
    from MemoryWorker.Client import JsonData, WorkerRequestException
    from System.Text.Json import JsonException

    action = ACTIONS[request["action"]]
    kind: Any = getattr(protocol, action.params.__name__)
    result = getattr(protocol, action.result.__name__)
    text = json.dumps(request.get("data", {}))
    try:
        data = protocol.WireJson.Read[kind](text, True)
    except JsonException:  # What C# would not let a host write goes out as plain JSON.
        kind, data = JsonData, JsonData.Parse(text)
    try:
        row = protocol.WireAction[kind, result](request["action"], action.changes, action.control)
        answer = wait(execute(service, row, data))
    except WorkerRequestException as refused:
        executed = refused.Executed.ToString().lower()
        return (
            refused.Code,
            refused.Reason,
            executed,
            refused.Retryable,
            json.loads(refused.Details.GetRawText()),
        )
    return json.loads(protocol.WireJson.ToText[result](answer))


def test_there_are_conversations() -> None:
    """The folder is where it is thought to be."""
    assert len(list(Path(FOLDER).glob("*.out.jsonl"))) > 20
