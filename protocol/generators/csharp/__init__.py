"""The contract in C#: records with their own JSON readers and writers, enums, events and the action table.

No reflection and no source generator is needed at run time, so the client can be trimmed and compiled
ahead of time. The hand-written half lies beside it in csharp_host/src/MemoryWorker.Client/Protocol/.
"""

from dataclasses import replace

from protocol.actions import ACTIONS, EVENTS
from protocol.generators.csharp.actions import actions, constants
from protocol.generators.csharp.events import events
from protocol.generators.csharp.records import record
from protocol.generators.csharp.schemas import schemas
from protocol.generators.csharp.text import file, pascal
from protocol.generators.csharp.words import words
from protocol.generators.model import Record, contract

FOLDER = "csharp_host/src/MemoryWorker.Client/Generated"
TESTING = "csharp_host/src/MemoryWorker.Testing/Generated"
OWNED = (f"{FOLDER}/*", f"{TESTING}/*")
JSON_USINGS = "System.Diagnostics.CodeAnalysis System.Text.Json System.Text.Json.Serialization"


def generate() -> dict[str, str]:
    """Return every C# file by its path from the repository's root. The same contract gives the same text."""
    records, stated = contract()
    enums = {pascal(name): replace(one, name=pascal(name)) for name, one in stated.items()}
    roots = {
        "Params": {action.params.__name__ for action in ACTIONS.values()},
        "Results": {action.result.__name__ for action in ACTIONS.values()},
        "EventData": {kind.__name__ for kind in EVENTS.values()},
    }
    named = set().union(*roots.values())
    roots["Lines"] = {one.root for one in records.values()} - named
    files = {
        group: _records([one for one in records.values() if one.root in members], set(enums))
        for group, members in roots.items()
    }
    files |= {"Words": words(enums), "Actions": actions(), "Constants": constants(), "Events": events()}
    written = {f"{FOLDER}/{name}.g.cs": text for name, text in files.items()}
    return written | {f"{TESTING}/RequestSchemas.g.cs": schemas()}


def _records(group: list[Record], enums: set[str]) -> str:
    return file(JSON_USINGS, *(record(one, enums) for one in group))
