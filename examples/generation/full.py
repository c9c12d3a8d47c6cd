"""The best strategy: a model thinks up what the project keeps, and the templates write it.

What a model says is no more to be trusted than what it was asked: it answers in JSON of a schema, which is checked again,
and none of it becomes code.
"""

import json
from typing import Any

from examples.generation.design import NAME, TYPES, Design, Written
from examples.generation.templates import templates
from worker.plugins import Call, LeasedModel, PluginHost, WorkerError

MODEL_ID = "generator"
MOST_TOKENS = 1024

_NAME = {"type": "string", "pattern": f"^{NAME}$"}
_FIELD = {
    "type": "object",
    "properties": {"name": _NAME, "type": {"enum": TYPES}},
    "required": ["name", "type"],
    "additionalProperties": False,
}
_KIND = {
    "type": "object",
    "properties": {"name": _NAME, "fields": {"type": "array", "minItems": 1, "maxItems": 8, "items": _FIELD}},
    "required": ["name", "fields"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {"kinds": {"type": "array", "minItems": 1, "maxItems": 4, "items": _KIND}},
    "required": ["kinds"],
    "additionalProperties": False,
}


def full(host: PluginHost, design: Design, call: Call) -> Written:
    """Return the files, and what was there for them. Raises whatever a load, a model or its answer fails with."""
    with host.models.use(MODEL_ID, token=call.token) as weights:
        asked = {"domain": design.domain, "prompt": design.description, "known": list(design.kinds)}
        kinds = weights.do(think, asked, call)
        there = f"{weights.model_id}, {weights.size_bytes:,} bytes, is on {weights.device_id}"
    files, _ = templates(host, design.with_kinds(kinds), call)
    return files, there


def think(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, dict[str, str]]:
    """Ask the model for kinds of rows, where it is: in llama.cpp's process."""
    pieces = list[str]()
    failed = list[str]()

    def take(chunk: dict[str, Any]) -> bool:
        """Note a token, and return whether to stop. llama.cpp calls this: nothing that it raised would arrive."""
        if "error" in chunk:
            failed.append(str(chunk["error"]["message"]))
            return True
        pieces.extend(each["delta"].get("content") or "" for each in chunk["choices"])
        call.report(min(len(pieces), MOST_TOKENS), MOST_TOKENS)
        try:
            call.token.check()
        except WorkerError:
            return True
        return False

    question = (
        f"Which kinds of rows does this {data['domain']} project keep, and with which fields? Others have "
        f"{', '.join(data['known'])}. It is described as: {data['prompt']}"
    )
    form = {"type": "json_schema", "json_schema": {"name": "kinds", "schema": SCHEMA, "strict": True}}
    said = {"messages": [{"role": "user", "content": question}], "max_tokens": MOST_TOKENS, "stream": True}
    weights.session.handle_chat_completions(
        said | {"response_format": form, "seed": 1, "temperature": 0.2}, take
    )
    call.token.check()
    if failed:
        raise ValueError(failed[0])
    return {
        kind["name"]: {field["name"]: field["type"] for field in kind["fields"]}
        for kind in json.loads("".join(pieces))["kinds"]
    }
