"""The file of ``--models``: which models there are. Strict; an unknown key is refused by name."""

import ast
import copy
import inspect
import re
import sys
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from protocol.engine_keys import ENGINE_LOADERS, NOT_FOR_ENGINES
from protocol.vocabulary import FOREVER, INT64_MAX

DTYPES = {
    "F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16",
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "double": "F64", "float": "F32", "half": "F16",
    "fp64": "F64", "fp32": "F32", "fp16": "F16", "bf16": "BF16", "f64": "F64", "f32": "F32", "f16": "F16",
}  # fmt: skip
"""What weights can be cast to, as the formats, torch and people call it."""

LOADER_NAMES = {
    "llama-cpp": "gguf", "llama.cpp": "gguf", "llama_cpp": "gguf", "torchscript": "torch.jit", "onnxruntime": "onnx",
    "pytorch": "torch",
}  # fmt: skip
"""Other names of loaders."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|[KMGT]i?B)?")
_UNITS = {"B": 1} | {
    f"{letter}{i}B": (1024 if i else 1000) ** power
    for power, letter in enumerate("KMGT", 1)
    for i in ("", "i")
}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_CHARACTERS = 64
_MAX_SECONDS = 2**31
_MAX_PATHS = 10_000
_MAX_PATH_CHARACTERS = 4096


def _bytes(value: Any) -> Any:
    """Read ``7GiB``; whole numbers stay what they are."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) and len(value) <= _MAX_CHARACTERS else None
    size = value
    if match is not None:
        unit = _UNITS[match[2] or "B"]
        size = round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if type(size) is not int or not 0 <= size <= INT64_MAX:
        text = f"input should be whole bytes from 0 to {INT64_MAX}, such as 4096 or 7GiB"
        raise PydanticCustomError("size", text)
    return size


def _seconds(value: Any) -> Any:
    """Read ``10m`` or ``1h30m``; numbers stay what they are."""
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_CHARACTERS or not _DURATION.fullmatch(value):
        text = f"input should be seconds, or a time such as 10m or 1h30m, up to {_MAX_SECONDS} s; -1 for ever"
        raise PydanticCustomError("duration", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|[smhd])", value))


def _paths(value: Any) -> Any:
    """Take a path, or a list of them."""
    each = value if isinstance(value, list) else [value]
    good = all(
        isinstance(path, str) and 0 < len(path) <= _MAX_PATH_CHARACTERS and "\0" not in path for path in each
    )
    if value is not None and (not good or not 0 < len(each) <= _MAX_PATHS):
        text = f"input should be a path of up to {_MAX_PATH_CHARACTERS} characters, none of them NUL, or a list of such"
        raise PydanticCustomError("path", text)
    return value


_PATH = {"type": "string", "minLength": 1, "maxLength": _MAX_PATH_CHARACTERS}
Dtype = Literal[
    "F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16", "double", "float", "half",
    "fp64", "fp32", "fp16", "bf16", "f64", "f32", "f16",
]  # fmt: skip
Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Factory = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
KeepAlive = Annotated[
    float,
    Field(ge=FOREVER, le=_MAX_SECONDS, allow_inf_nan=False),
    BeforeValidator(_seconds),
    WithJsonSchema(
        {"anyOf": [
            {"type": "number", "minimum": FOREVER, "maximum": _MAX_SECONDS},
            {"type": "string", "pattern": f"^{_DURATION.pattern}$"},
        ]}
    ),
]  # fmt: skip
Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    WithJsonSchema(
        {"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": INT64_MAX},
            {"type": "string", "pattern": f"^{_SIZE.pattern}$"},
        ]}
    ),
]  # fmt: skip
Paths = Annotated[
    Any,
    AfterValidator(_paths),
    WithJsonSchema(
        {
            "anyOf": [
                _PATH,
                {"type": "array", "items": _PATH, "minItems": 1, "maxItems": _MAX_PATHS},
                {"type": "null"},
            ]
        }
    ),
]

_UNLESS_EXTERNAL = ("path", "loader", "factory", "dtype")
_EXTERNAL = {
    **dict.fromkeys(
        (*_UNLESS_EXTERNAL, "offload", "fallback", "placement", "preload", "params", "engine_group"),
        (False, "has no meaning with external: true"),
    ),
    "declared_bytes": (True, "is needed with external: true: nothing else tells its size"),
}
_MODULE = {
    "factory": (True, "is missing; the loader module needs one"),
    "placement": (False, "has no meaning with the loader module: its code decides"),
    "engine_group": (False, "has no meaning with the loader module: its code runs in the worker"),
}
_FROM_FILE = {
    "path": (True, "is missing"),
    "factory": (False, "is for the loader module only"),
}
"""For each kind of model: which keys must be there (or must not), and what to say else."""


class ModelEntry(BaseModel):
    """One model."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    id: Id
    """What requests call it. Unique."""
    aliases: list[Id] = []
    """Other names that requests may call it."""
    path: Paths = None
    """Its file, below the folder of `--model-root`; its folder; its `*.index.json`; or a list of its shards. `~` and
    `$NAME` are replaced. What leads out of there, also through a link, is refused."""
    loader: Text | None = None
    """`safetensors`, `torch`, `module`, or one that an installed package offers; null for as the file's contents say."""
    factory: Factory | None = Field(default=None, examples=["my_package.models:make"])
    """`package.module:function` that makes the model; for the loader `module` only."""
    dtype: Dtype | None = None
    """What floating-point tensors are cast to; null for as stored."""
    params: dict[str, Any] = {}
    """What its loader is handed beside: a factory's arguments, an engine's options."""
    device: Text = "auto"
    """A device id, or `auto` for whichever has room."""
    keep_alive_seconds: KeepAlive = 600
    """How long it stays after its last use, in seconds or as `10m`; -1 for until evicted."""
    preload: bool = False
    """Loaded at the start, in this file's order."""
    pinned: bool = False
    """Never evicted."""
    priority: Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)] = 0
    """The higher, the longer the strategy `priority` keeps it."""
    declared_bytes: Bytes | None = None
    """What it takes, in bytes or as `7GiB`: what is more than its tensors is its working memory. Null for as its file
    says, and after a load as measured."""
    offload: bool = False
    """Whether it may go to the machine's own memory instead of being unloaded."""
    fallback: Id | None = None
    """The model to use where this one has no room."""
    placement: Literal["auto", "map", "copy"] = "auto"
    """Where weights in the machine's own memory are: `map` in the file, mapped and not copied; `copy` in memory of
    the worker's own; `auto`: mapped where the file allows it and the system holds off who would write to it, else
    copied."""
    engine_group: Id | None = None
    """The engine process it shares with the other models of this name; null for one of its own. For engines only."""
    external: bool = False
    """Whether another process holds it: then it has no path and no loader, and `declared_bytes` says its size."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if FOREVER < self.keep_alive_seconds < 0:
            raise ValueError("keep_alive_seconds: is between -1 (until evicted) and 0")
        made = self.loader == "module" or (self.loader is None and self.factory is not None)
        rules = _EXTERNAL if self.external else _MODULE if made else _FROM_FILE
        for key, (wanted, text) in rules.items():
            if _given(getattr(self, key)) is not wanted:
                raise ValueError(f"{key}: {text}")
        if self.loader is not None and LOADER_NAMES.get(self.loader, self.loader) in ENGINE_LOADERS:
            for key, text in NOT_FOR_ENGINES.items():
                if _given(getattr(self, key)):
                    raise ValueError(f"{key}: {text}")
        return self


def _given(value: object) -> bool:
    return value not in (None, False, "auto", {}, [])


class RoleEntry(BaseModel):
    """What stands for a model by what it is for: an agent, a task. Valid wherever a model id is."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    model: Id
    """The model that does it."""
    fallbacks: list[Id] = []
    """Models to use where that one has no room, in this order."""


SERVER_PORTS = {
    "comfyui": 8188, "llama-server": 8080, "llama-swap": 8080, "ollama": 11434, "openai": 8000, "vllm": 8000,
}  # fmt: skip
"""Kinds of other model servers, and the port that each listens on unless it is told otherwise."""

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class ServerEntry(BaseModel):
    """Another model server on this machine: what it has loaded is seen, and it is asked to give memory back."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = Field(
        default=None, examples=["ollama-2"]
    )
    """What its models' names begin with; null for its kind."""
    kind: Literal["comfyui", "llama-server", "llama-swap", "ollama", "openai", "vllm"]
    """Whose interface it speaks. `openai` is asked, and never told anything."""
    url: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$", max_length=2048)] | None = Field(
        default=None, examples=["http://127.0.0.1:11434"]
    )
    """Where it listens; null for where its kind does on this machine."""
    allow_remote: bool = False
    """Whether `url` may be another machine's: its memory is not this one's then, and nobody checks who answers."""
    device: Text = "auto"
    """The device whose memory its models take, or `auto` for the default one."""
    authorization_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = Field(
        default=None, examples=["OLLAMA_AUTHORIZATION"]
    )
    """The environment variable with the whole value of the header `Authorization`, such as `Bearer …`."""
    reload_seconds: Annotated[float, Field(ge=0, le=_MAX_SECONDS, allow_inf_nan=False)] | None = None
    """What loading one of its models again takes; null to learn it."""

    @model_validator(mode="after")
    def _is_here(self) -> Self:
        if self.url is not None and not self.allow_remote:
            try:
                host = urlsplit(self.url).hostname
            except ValueError:
                host = None
            if host not in _HERE:
                raise ValueError(
                    f"url: {host} is not this machine; allow_remote: true has it asked all the same"
                )
        return self


class ModelsFile(BaseModel):
    """The whole file; its models are checked one by one, so that one that is wrong is refused alone."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    models: Any = None
    """All models: a list, or keys and values by id. May be left out where there are `servers`."""
    roles: Any = None
    """Names for what models are for."""
    servers: Any = None
    """Other model servers on this machine: a list, or keys and values by name."""


def models_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file, for editors that check YAML by one."""
    entry, role, server = (each.model_json_schema() for each in (ModelEntry, RoleEntry, ServerEntry))
    for kind, place in ((ModelEntry, entry), (RoleEntry, role), (ServerEntry, server)):
        for field, text in _field_texts(kind).items():
            place["properties"][field]["description"] = text
    given = {key: {"not": {"type": "null"}} for key in ("path", "factory")}
    external = {"properties": {"external": {"const": True}}, "required": ["external"]}
    module = {
        "anyOf": [
            {"properties": {"loader": {"const": "module"}}, "required": ["loader"]},
            {
                "properties": {"loader": {"type": "null"}, "factory": given["factory"]},
                "required": ["factory"],
            },
        ]
    }
    entry["if"] = external
    entry["then"] = {
        "required": ["declared_bytes"],
        "properties": {
            "declared_bytes": {"not": {"type": "null"}},
            "offload": {"const": False},
            "preload": {"const": False},
            "placement": {"const": "auto"},
            "params": {"maxProperties": 0},
            **{key: {"type": "null"} for key in (*_UNLESS_EXTERNAL, "fallback")},
        },
    }
    entry["else"] = {
        "if": module,
        "then": {
            "required": ["factory"],
            "properties": {"factory": given["factory"], "placement": {"const": "auto"}},
        },
        "else": {
            "required": ["path"],
            "properties": {"path": given["path"], "factory": {"type": "null"}},
            "if": {"properties": {"loader": {"enum": _engine_names()}}, "required": ["loader"]},
            "then": {
                "properties": {
                    "dtype": {"type": "null"}, "offload": {"const": False}, "placement": {"const": "auto"},
                }
            },
        },
    }  # fmt: skip
    named = copy.deepcopy(entry)
    named["required"] = [key for key in named["required"] if key != "id"]
    del named["properties"]["id"]
    texts = _field_texts(ModelsFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "models.json",
        "$defs": {"ModelEntry": entry, "NamedModelEntry": named, "RoleEntry": role, "ServerEntry": server},
        "title": "ModelsFile",
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["models"]}, {"required": ["servers"]}],
        "properties": {
            "models": {
                "description": texts["models"],
                "anyOf": [
                    {"type": "array", "items": {"$ref": "#/$defs/ModelEntry"}},
                    {"type": "object", "additionalProperties": {"$ref": "#/$defs/NamedModelEntry"}},
                ],
            },
            "roles": {
                "description": texts["roles"],
                "type": ["object", "null"],
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/RoleEntry"}, {"type": "string"}]},
            },
            "servers": {
                "description": texts["servers"],
                "anyOf": [
                    {"type": "array", "items": {"$ref": "#/$defs/ServerEntry"}},
                    {"type": "object", "additionalProperties": {"$ref": "#/$defs/ServerEntry"}},
                    {"type": "null"},
                ],
            },
        },
    }


def _engine_names() -> list[str]:
    return [*ENGINE_LOADERS, *(name for name, loader in LOADER_NAMES.items() if loader in ENGINE_LOADERS)]


def _field_texts(kind: type[BaseModel]) -> dict[str, str]:
    """Read the strings below fields: Python keeps class docstrings only."""
    body = ast.parse(inspect.getsource(sys.modules[kind.__module__])).body
    (definition,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    found = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
