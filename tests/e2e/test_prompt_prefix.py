"""The example of a torch model that keeps keys and values: the same answers, and less worked out."""

import pytest

from tests.e2e.process import worker


def test_a_prompt_goes_on_from_what_is_known_of_its_beginning() -> None:
    """As it would without; in another scope nothing is known, and memory that is taken back costs time alone."""
    pytest.importorskip("torch")
    beginning = "Once upon a time, there was a process that knew where its memory is. " * 4
    with worker("--plugin", "examples.plugins.prompt_prefix") as started:
        first = started.call("prompt.next", {"text": beginning})
        assert (first["known_tokens"], first["worked_out_tokens"]) == (0, len(beginning))
        longer = started.call("prompt.next", {"text": beginning + "And"})
        assert (longer["known_tokens"], longer["worked_out_tokens"]) == (len(beginning), 3)
        apart = started.call("prompt.next", {"text": beginning + "And", "project_id": "other"})
        assert (apart["next"], apart["known_tokens"]) == (longer["next"], 0)
        assert started.call("store.stats", {"store": "prompts"})["hits"] == 1
        assert started.call("store.clear", {"store": "prompts"})["returned_bytes"] > 0
        again = started.call("prompt.next", {"text": beginning})
        assert (again["next"], again["known_tokens"]) == (first["next"], 0)
        assert started.refused("prompt.next", {"text": ""})["code"] == "invalid_request"
