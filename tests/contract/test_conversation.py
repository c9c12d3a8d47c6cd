"""The walk through the operations that a person pipes into a worker, on whatever machine this is."""

import json
from collections import Counter

import pytest

from protocol.actions import ACTIONS
from protocol.contract import adapter
from tests.rigs.worker_process import ROOT, converse

CONVERSATION = (ROOT / "examples" / "conversation.jsonl").read_bytes()
ASKED = [json.loads(line) for line in CONVERSATION.splitlines()]


def test_every_operation_is_shown() -> None:
    """Whoever reads it has seen all there is to ask."""
    assert set(ACTIONS) <= {request["action"] for request in ASKED}


@pytest.mark.parametrize("attempt", range(3))
def test_every_line_is_answered_as_it_says(attempt: int) -> None:
    """One reply a line, and those succeed whose ids do not announce an error; what is repeated is replayed."""
    replies = [json.loads(line) for line in converse(CONVERSATION).splitlines()]
    assert Counter(reply["request_id"] for reply in replies) == Counter(each["request_id"] for each in ASKED)
    for reply in replies:
        adapter("SuccessReply" if reply["success"] else "ErrorReply").validate_json(json.dumps(reply))
        assert reply["success"] is not reply["request_id"].startswith("error: "), reply
    repeated = sum(count - 1 for count in Counter(each["request_id"] for each in ASKED).values())
    assert sum("replayed" in reply for reply in replies) == repeated == 1


def test_every_error_is_the_one_announced() -> None:
    """The errors that are shown are those that were meant to be."""
    replies = [json.loads(line) for line in converse(CONVERSATION).splitlines()]
    codes = {reply["request_id"]: reply["error"]["code"] for reply in replies if not reply["success"]}
    assert codes == {
        "error: a model that is not configured (start it with --models)": "model_not_found",
        "error: nothing to unload either": "model_not_found",
        "error: a typo is refused by name": "invalid_request",
        "error: more than any machine has": "out_of_memory",
        "error: no such action": "unknown_action",
        "error: no such device": "device_not_found",
        "error: over the limit": "limit_exceeded",
        "error: it was freed before": "allocation_not_found",
        "error: caches have keys, tags and prefixes; vectors are searched": "unsupported",
        "error: folders of texts are for stores of documents, and below --documents-root": "unsupported",
        "error: a node is drained by the fleet that has it, and this worker is alone": "unsupported",
    }
