"""The kinds of servers, and making one out of what the operator declared."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module

from protocol.record import Record
from worker.core.models import ServerSpec
from worker.servers.base import ModelServer
from worker.servers.http import Http

KINDS = {
    "comfyui": ("worker.servers.comfyui", "ComfyUi"),
    "llama-server": ("worker.servers.llama_server", "LlamaServer"),
    "llama-swap": ("worker.servers.llama_swap", "LlamaSwap"),
    "ollama": ("worker.servers.ollama", "Ollama"),
    "openai": ("worker.servers.openai", "OpenAi"),
    "vllm": ("worker.servers.vllm", "Vllm"),
}


class OpenServer(Record):
    """A server that can be asked."""

    kind: str
    url: str
    device_id: str
    server: ModelServer


def open_server(spec: ServerSpec, device_id: str, environment: Mapping[str, str] = os.environ) -> OpenServer:
    """Make what asks it; nothing is asked yet. ValueError, in a sentence, where its authorization is not there."""
    authorization = None
    if spec.authorization_env is not None:
        authorization = environment.get(spec.authorization_env)
        if not authorization:
            message = f"{spec.authorization_env} is not set in the worker's environment"
            raise ValueError(message)
        if not authorization.isprintable() or not authorization.isascii():
            message = f"{spec.authorization_env} is no value of a header"
            raise ValueError(message)
    module, name = KINDS[spec.kind]
    make: Callable[[Http, str], ModelServer] = getattr(import_module(module), name)
    return OpenServer(spec.kind, spec.url, device_id, make(Http(spec.url, authorization), device_id))
