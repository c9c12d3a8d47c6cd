"""The contract over HTTP: the OpenAPI document of the web sample, which maps its routes from it.

``memory.get_status`` is ``GET /api/memory/status``: what a read takes is its query, and what it must have its path.
Everything else is ``POST /api/memory/allocate`` with what it takes as the body. Control actions are the host's own:
it greets, pings, subscribes, cancels and shuts down by itself.
"""

import json

from protocol.generators.openapi.document import document

_FILE = "csharp_host/samples/WebApi/openapi.json"
OWNED = (_FILE,)


def generate() -> dict[str, str]:
    """Return the document by its path from the repository's root. The same contract gives the same text."""
    return {_FILE: json.dumps(document(), indent=2, ensure_ascii=False) + "\n"}
