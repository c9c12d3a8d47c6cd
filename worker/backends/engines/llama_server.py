"""llama.cpp's server as this project calls it: what it does only through its port, and completions with what a store has."""

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import xllamacpp

from worker.backends.engines.llama_prefix import Ask, PrefixCaching

_LONGEST_S = 600.0
"""A cache of a hundred gigabytes is written to memory in less."""

_TOKENS = range(2**31)
"""What a token may be. Of any other integer llama.cpp takes the lower 32 bits, and answers another prompt."""
_NONE = -1
"""What it refuses as no token of any model."""

OnPiece = Callable[[Any], Any]


class ServerHttp:
    """Its port, on loopback, which wants a key."""

    def __init__(self, address: str, key: str) -> None:
        self._address = urlsplit(address)
        self._key = key

    def ask(self, method: str, path: str, body: Any) -> Any:
        """Ask, and return what it answers. OSError for a refusal, with its words."""
        text = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        server = http.client.HTTPConnection(
            str(self._address.hostname), self._address.port, timeout=_LONGEST_S
        )
        with closing(server):
            try:
                server.request(method, path, text, headers)
                answer = server.getresponse()
                said = answer.read()
            except http.client.HTTPException as error:
                raise OSError(f"llama.cpp did not answer {method} {path}: {error!r}") from error
        if answer.status != http.client.OK:
            words = said.decode("utf-8", "replace")[:500]
            raise OSError(f"llama.cpp refused {method} {path}: {answer.status} {words}")
        return json.loads(said)


class LlamaServer(xllamacpp.Server):  # type: ignore[misc]  # the library has no types
    """A server that refuses what is no token, and whose completions begin with what a store has of their prompts.

    All else is the library's own; without a store so are the completions. Requests that are objects are looked at; those that are text
    go on as they are.
    """

    _caching: PrefixCaching | None = None
    _ask: Ask

    def begin(self, caching: PrefixCaching, ask: Ask) -> None:
        """Keep prefixes from now on."""
        self._ask = ask
        self._caching = caching

    def forget(self) -> None:
        """Note that the library's own cache was cleared."""
        if self._caching is not None:
            self._caching.forget()

    def handle_completions(self, body: Any, on_piece: OnPiece | None = None) -> Any:
        """Continue a prompt."""
        run = super().handle_completions
        return self._completed(body, on_piece, run, self._tokens)

    def handle_chat_completions(self, body: Any, on_piece: OnPiece | None = None) -> Any:
        """Answer messages."""
        run = super().handle_chat_completions
        return self._completed(body, on_piece, run, self._chat_tokens)

    def handle_embeddings(self, body: Any, *more: Any) -> Any:
        """Make vectors."""
        return super().handle_embeddings(_refusable(_refusable(body, "input"), "content"), *more)

    def _completed(
        self, body: Any, on_piece: OnPiece | None, run: Callable[..., Any], tokens_of: Callable[[Any], list[int] | None]
    ) -> Any:  # fmt: skip
        def done(given: Any, taken: OnPiece | None) -> Any:
            return run(given) if taken is None else run(given, taken)

        body = _refusable(body, "prompt")
        if self._caching is None or not isinstance(body, dict):
            return done(body, on_piece)
        return self._caching.completed(body, on_piece, done, tokens_of)

    def _tokens(self, body: dict[str, Any]) -> list[int] | None:
        """Return a prompt's tokens as the library will have them; None where there is not one prompt alone."""
        prompt = body.get("prompt")
        if isinstance(prompt, list) and all(type(each) is int and each in _TOKENS for each in prompt):
            return prompt
        if not isinstance(prompt, str):
            return None
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        tokens: list[int] = self._ask("POST", "/tokenize", asked)["tokens"]
        return tokens

    def _chat_tokens(self, body: dict[str, Any]) -> list[int] | None:
        """Return the tokens of messages; None where they are not of text alone."""
        contents = [each.get("content") for each in body["messages"]]
        parts = [part for each in contents if isinstance(each, list) for part in each]
        if any(part.get("type") != "text" for part in parts):
            return None
        return self._tokens({"prompt": self._ask("POST", "/apply-template", body)["prompt"]})


def _refusable(body: Any, name: str) -> Any:
    """Return a request in whose prompts what is no token is one that llama.cpp refuses, as it does others that a model has not."""
    if not isinstance(body, dict) or not isinstance(body.get(name), list | dict):
        return body
    return body | {name: _of_tokens(body[name])}


def _of_tokens(prompt: Any) -> Any:
    if isinstance(prompt, list):
        return [_of_tokens(each) for each in prompt]
    if isinstance(prompt, dict):
        return _refusable(prompt, "prompt_string")
    return _NONE if type(prompt) is int and prompt not in _TOKENS else prompt
