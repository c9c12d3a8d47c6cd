"""The file of ``--models``: which models there are. Strict; an unknown key is refused by name."""

import ast
import inspect
import sys
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from protocol.vocabulary import FOREVER, INT64_MAX

DTYPES = {
    "F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16",
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
}  # fmt: skip
"""What weights can be cast to, as the formats and as torch call it."""

Dtype = Literal["F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Factory = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
KeepAlive = Annotated[float, Field(ge=FOREVER, le=2**31, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=INT64_MAX)]

_UNLESS_EXTERNAL = ("path", "loader", "factory", "dtype")
_EXTERNAL = {
    **dict.fromkeys(
        (*_UNLESS_EXTERNAL, "offload", "fallback", "placement"), (False, "has no meaning with external: true")
    ),
    "declared_bytes": (True, "is needed with external: true: nothing else tells its size"),
}
_MODULE = {
    "factory": (True, "is missing; the loader module needs one"),
    "placement": (False, "has no meaning with the loader module: its code decides"),
}
_FROM_FILE = {
    "loader": (True, "is missing"),
    "path": (True, "is missing"),
    "factory": (False, "is for the loader module only"),
}
"""For each kind of model: which keys must be there (or must not), and what to say else."""


class ModelEntry(BaseModel):
    """One model."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    id: Id
    """What requests call it. Unique."""
    path: Text | None = None
    """Its file, below the folder of `--model-root`; what leads out of there, also through a link, is refused."""
    loader: Text | None = None
    """`safetensors`, `torch`, `module`, or one that an installed package offers."""
    factory: Factory | None = None
    """`package.module:function` that makes the model; for the loader `module` only."""
    dtype: Dtype | None = None
    """What floating-point tensors are cast to; null for as stored."""
    device: Text = "auto"
    """A device id, or `auto` for whichever has room."""
    keep_alive_seconds: KeepAlive = 600
    """How long it stays after its last use; -1 for until evicted."""
    pinned: bool = False
    """Never evicted."""
    priority: Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)] = 0
    """The higher, the longer the strategy `priority` keeps it."""
    declared_bytes: Bytes | None = None
    """What it takes; null for as its file's header says, and after a load as measured."""
    offload: bool = False
    """Whether it may go to the machine's own memory instead of being unloaded."""
    fallback: Id | None = None
    """The model to use where this one has no room."""
    placement: Literal["auto", "map", "copy"] = "auto"
    """Where weights in the machine's own memory are: `map` in the file, mapped and not copied; `copy` in memory of
    the worker's own; `auto`: mapped where the file allows it and the system holds off who would write to it, else
    copied."""
    external: bool = False
    """Whether another process holds it: then it has no path and no loader, and `declared_bytes` says its size."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if FOREVER < self.keep_alive_seconds < 0:
            raise ValueError("keep_alive_seconds: is between -1 (until evicted) and 0")
        rules = _EXTERNAL if self.external else _MODULE if self.loader == "module" else _FROM_FILE
        for key, (wanted, text) in rules.items():
            if _given(getattr(self, key)) is not wanted:
                raise ValueError(f"{key}: {text}")
        return self


def _given(value: object) -> bool:
    return value not in {None, False, "auto"}


class ModelsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    models: list[ModelEntry]
    """All models."""


def models_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file, for editors that check YAML by one."""
    schema = ModelsFile.model_json_schema()
    entry = schema["$defs"]["ModelEntry"]
    for kind, place in ((ModelsFile, schema), (ModelEntry, entry)):
        for field, text in _field_texts(kind).items():
            place["properties"][field]["description"] = text
    given = {key: {"not": {"type": "null"}} for key in ("path", "loader", "factory")}
    external = {"properties": {"external": {"const": True}}, "required": ["external"]}
    module = {"properties": {"loader": {"const": "module"}}, "required": ["loader"]}
    entry["if"] = external
    entry["then"] = {
        "required": ["declared_bytes"],
        "properties": {
            "declared_bytes": {"not": {"type": "null"}},
            "offload": {"const": False},
            "placement": {"const": "auto"},
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
            "required": ["loader", "path"],
            "properties": {"loader": given["loader"], "path": given["path"], "factory": {"type": "null"}},
        },
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "models.json", **schema}


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
