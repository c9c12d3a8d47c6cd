"""A plugin that writes text with any GGUF model, through llama.cpp in an engine process of its own.

Declare a model that you have, and start the worker with it (``pip install memory-worker[gguf]``)::

    echo 'models: {writer: {path: model.gguf, params: {n_ctx: 4096}}}' > models.yaml
    python -m memory_worker --models models.yaml --plugin examples.plugins.text_generation

    {"request_id": "1", "action": "text.generate", "data": {"prompt": "Once upon a time", "max_tokens": 64}}
"""

from typing import Any

from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost, WorkerError

MODEL_ID = "writer"
MOST_TOKENS = 4096


def register(host: PluginHost) -> None:
    """Add ``text.generate``."""
    host.add_model_action("text.generate", generate, MODEL_ID)


def generate(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Continue a prompt, token by token: each is progress, and after each the request may be cancelled."""
    prompt, most = data.get("prompt"), data.get("max_tokens", 64)
    if not isinstance(prompt, str):
        raise InvalidRequestError.at("data.prompt", "a text is wanted")
    if type(most) is not int or not 0 < most <= MOST_TOKENS:
        raise InvalidRequestError.at("data.max_tokens", f"a whole number from 1 to {MOST_TOKENS} is wanted")
    pieces = list[str]()
    last: dict[str, Any] = {}

    def take(chunk: dict[str, Any]) -> bool:
        """Note a token, and return whether to stop. llama.cpp calls this: nothing that it raised would arrive."""
        last.update(chunk)
        if "error" in chunk:
            return True
        pieces.append(chunk["choices"][0]["text"])
        call.report(min(len(pieces), most), most)
        try:
            call.token.check()
        except WorkerError:
            return True
        return False

    asked = {"prompt": prompt, "n_predict": most, "stream": True, "temperature": data.get("temperature", 0.8)}
    weights.session.handle_completions(asked | {"seed": data.get("seed", -1)}, take)
    call.token.check()
    if "error" in last:
        raise InvalidRequestError.at("data", str(last["error"]["message"]))
    return {
        "text": "".join(pieces),
        "tokens": last["usage"]["completion_tokens"],
        "cached_tokens": last["usage"]["prompt_tokens_details"]["cached_tokens"],
        "finish_reason": last["choices"][0]["finish_reason"],
    }
