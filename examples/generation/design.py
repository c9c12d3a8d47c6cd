"""What is asked for, and what is to be written: checked here, so that nothing else has to ask again."""

import re
from dataclasses import dataclass, replace
from typing import Any, Self

from worker.plugins import InvalidRequestError

FRAMEWORKS = ("fastapi", "flask", "django")
DOMAINS: dict[str, dict[str, dict[str, str]]] = {
    "ecommerce": {
        "product": {"name": "text", "price": "number", "stock": "integer"},
        "order": {"product_id": "integer", "quantity": "integer", "paid": "flag"},
    },
    "fintech": {
        "account": {"owner": "text", "currency": "text"},
        "transfer": {"from_account": "integer", "to_account": "integer", "cents": "integer"},
    },
    "healthcare": {
        "patient": {"name": "text", "born": "text"},
        "appointment": {"patient_id": "integer", "at": "text", "confirmed": "flag"},
    },
    "general": {"item": {"name": "text", "done": "flag"}},
}
"""What a project of each keeps: kinds of rows, and their fields by type."""
TYPES = ("text", "integer", "number", "flag")
FEATURES = {
    "auth": r"o?auth|authenti\w+|authori[sz]\w+|log-?\s?in|sign-?\s?in|passwords?",
    "upload": r"upload\w*|attach\w*",
    "realtime": r"real-?\s?time|live|stream\w*|notif\w*|websockets?",
    "search": r"search\w*|find|filter\w*",
}
"""The words of a prompt that ask for each."""
NAME = "[a-z][a-z_]{0,30}[a-z]"
"""Of a kind of row, or a field."""
TITLE = "[A-Za-z][A-Za-z0-9 _-]{0,63}"
MOST_PROMPT, MOST_NAME = 4000, 256
"""Characters; of a name, as ``store.*`` has them."""

Written = tuple[dict[str, str], str]
"""The text of each file by its path, and what was there for them, in words."""


@dataclass(frozen=True)
class Design:
    """A project that is to be written."""

    framework: str
    domain: str
    title: str
    description: str
    """All that was asked for in this session, the newest last."""
    features: tuple[str, ...]
    kinds: dict[str, dict[str, str]]

    def with_kinds(self, kinds: Any) -> Self:
        """Return it with other kinds of rows, such as a model's. ValueError for those that can't be written."""
        if not isinstance(kinds, dict) or not kinds:
            raise ValueError("there are no kinds of rows")
        for kind, fields in kinds.items():
            if not isinstance(fields, dict) or not fields or "id" in fields:
                raise ValueError(f"{kind!r} is to have fields, and none that is called 'id'")
            for name in (kind, *fields):
                if not re.fullmatch(NAME, name):
                    raise ValueError(f"{name!r} is no name")
            if not set(fields.values()) <= set(TYPES):
                raise ValueError(f"a field of {kind!r} is of another type than {', '.join(TYPES)}")
        return replace(self, kinds=kinds)


@dataclass(frozen=True)
class Request:
    """What a request asks for."""

    framework: str
    domain: str
    prompt: str
    scope: tuple[str, str]
    session: str

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """Return what ``data`` says. InvalidRequestError for what it can't say."""
        known = ("framework", "domain", "prompt", "user", "project", "session")
        for name in known:
            if not isinstance(data.get(name), str) or not data[name].strip():
                raise InvalidRequestError.at(f"data.{name}", "a text is wanted")
            if len(data[name]) > (most := MOST_PROMPT if name == "prompt" else MOST_NAME):
                raise InvalidRequestError.at(f"data.{name}", f"at most {most} characters are wanted")
        for name in data.keys() - set(known):
            raise InvalidRequestError.at(
                f"data.{name}", f"there is no such field; there are {', '.join(known)}"
            )
        framework, domain = data["framework"].lower(), data["domain"].lower()
        if framework not in FRAMEWORKS:
            raise InvalidRequestError.at("data.framework", f"one of {', '.join(FRAMEWORKS)} is wanted")
        if domain not in DOMAINS:
            raise InvalidRequestError.at("data.domain", f"one of {', '.join(DOMAINS)} is wanted")
        if not re.fullmatch(TITLE, data["project"]):
            raise InvalidRequestError.at(
                "data.project", "a letter, then at most 63 letters, digits, spaces, _ and - are wanted"
            )
        return cls(framework, domain, data["prompt"], (data["user"], data["project"]), data["session"])

    def design(self, earlier: list[str]) -> Design:
        """Return what is to be written, with the features of earlier prompts, too."""
        said = "\n".join([*earlier, self.prompt])
        features = tuple(
            name for name, words in FEATURES.items() if re.search(rf"\b(?:{words})\b", said, re.IGNORECASE)
        )
        description = said[-MOST_PROMPT:]
        return Design(self.framework, self.domain, self.scope[1], description, features, DOMAINS[self.domain])
