"""The second strategy: Jinja2's templates, sandboxed. Whatever they print is a literal of Python unless it was checked."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.generation.design import Design, Written
from worker.plugins import Call, PluginHost

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

FOLDER = Path(__file__).with_name("templates")
WORKING_BYTES = 8 * 2**20
"""Most that Jinja2, its compiled templates and a project's text take: a process grew by 2.9 MB with all there are."""


class Checked(str):
    """Text that may stand in a file as it is."""

    __slots__ = ()


def templates(host: PluginHost, design: Design, call: Call) -> Written:
    """Return the files, and what was there for them. OutOfMemoryError, LimitExceededError where too little is."""
    with host.buffers.take(
        WORKING_BYTES, device="cpu", fallback=None, make_room=True, token=call.token
    ):  # counted while it is rendered
        return render(design), f"templates take {WORKING_BYTES:,} bytes"


def render(design: Design) -> dict[str, str]:
    """Return the text of each file by its path."""
    values = vars(design) | {"heading": Checked(design.title)}
    files = dict[str, str]()
    for name in _environment().list_templates():
        folder, _, path = name.removesuffix(".jinja").partition("/")
        if folder in {"common", design.framework} and Path(path).stem not in _unwanted(design):
            files[path] = _environment().get_template(name).render(values)
    return files


def _unwanted(design: Design) -> set[str]:
    return {"auth", "upload", "realtime", "search"} - set(design.features)


@cache
def _environment() -> "SandboxedEnvironment":
    from jinja2 import FileSystemLoader, StrictUndefined  # noqa: PLC0415 - an extra: the last strategy needs none
    from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - likewise

    return SandboxedEnvironment(
        loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, finalize=_literal,
        autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _literal(value: Any) -> str:
    if isinstance(value, Checked):
        return value
    if type(value) in {str, tuple, dict}:
        return ascii(value)
    message = f"a template prints a {type(value).__name__}"
    raise TypeError(message)
