"""``generation.create``: the best strategy that fits, the next where it doesn't or fails, and why."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from examples.generation.design import Design, Request, Written
from examples.generation.full import full
from examples.generation.minimal import minimal
from examples.generation.templates import templates
from worker.plugins import Cache, Call, CancelledError, DeadlineExceededError, PluginHost


def register(host: PluginHost) -> None:
    """Add ``generation.create``."""
    projects = host.stores.cache("generation", bytes="64MiB", ttl_s=3600)
    sessions = host.stores.sessions("generation-sessions")

    def create(data: dict[str, Any], call: Call) -> dict[str, Any]:
        began, request = perf_counter(), Request.read(data)
        with sessions.use(request.scope, request.session) as session:
            design = request.design([each["prompt"] for each in session.history])
            made = _best(host, projects, request.scope, design, call)
            session.history.append({"prompt": request.prompt, "strategy": made["strategy"]})
            history = list(session.history)
        took = round(1000 * (perf_counter() - began), 3)
        return {**made, "features": design.features, "history": history, "duration_ms": took}

    host.add_action("generation.create", create)


def _best(
    host: PluginHost, projects: Cache, scope: tuple[str, str], design: Design, call: Call
) -> dict[str, Any]:
    refused = list[str]()
    for strategy in (full, templates):
        name = strategy.__name__
        try:
            files, why = _written(projects, scope, design, name, partial(strategy, host, design, call))
        except (CancelledError, DeadlineExceededError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it fails with, the next one needs less
            refused.append(_refusal(name, error))
        else:
            return _reply(name, refused, why or f"{name} made it before", files, cached=why is None)
    return _reply("minimal", refused, "minimal takes 0 bytes", minimal(design), cached=False)


def _written(
    projects: Cache, scope: tuple[str, str], design: Design, name: str, write: Callable[[], Written]
) -> tuple[dict[str, str], str | None]:
    """Return the files, and what was there for them; None where they were made before."""
    told = list[str]()

    def make() -> dict[str, str]:
        files, there = write()
        told.append(there)
        return files

    key = hashlib.sha256(json.dumps(vars(design)).encode()).hexdigest()
    return projects.get_or_make(scope, f"{name}/{key}", make), told[0] if told else None


def _refusal(name: str, error: Exception) -> str:
    details = getattr(error, "details", {})
    needed, available = details.get("requested_bytes"), details.get("available_bytes")
    if needed is None or available is None:
        return f"{name} failed: {error}"
    return f"{name} needs {needed:,} bytes, {available:,} available"


def _reply(
    strategy: str, refused: list[str], why: str, files: dict[str, str], *, cached: bool
) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "reason": f"{'; '.join(refused)}: {why}" if refused else why,
        "cached": cached,
        "files": [{"path": path, "text": text} for path, text in files.items()],
    }
