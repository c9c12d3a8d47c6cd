"""A plugin that finds notes by what they are about: texts become vectors by a leased model, and are kept in a store.

Make the model, then start the worker with it; needs numpy::

    python -m examples.plugins.text_embedding models
    python -m memory_worker --models models/models.yaml --store-folder kept --plugin examples.plugins.note_search

    {"request_id": "1", "action": "note.add", "data": {"user": "ann", "id": "1", "text": "The cat sleeps on the mat"}}
    {"request_id": "2", "action": "note.find", "data": {"user": "ann", "text": "sleeping cats"}}
"""

from typing import Any

from examples.plugins.text_embedding import MODEL_ID, WIDTH, embedding
from worker.plugins import Call, InvalidRequestError, PluginHost


def register(host: PluginHost) -> None:
    """Add ``note.add`` and ``note.find``."""
    notes = host.stores.vectors("notes", dimensions=WIDTH, persist=True)

    def add(data: dict[str, Any], call: Call) -> dict[str, Any]:
        text = _said(data, "text")
        with host.models.use(MODEL_ID, token=call.token) as weights:
            notes.put(_scope(data), _said(data, "id"), embedding(text, weights), text)
        return {}

    def find(data: dict[str, Any], call: Call) -> dict[str, Any]:
        with host.models.use(MODEL_ID, token=call.token) as weights:
            found = notes.search(_scope(data), embedding(_said(data, "text"), weights), limit=3)
        return {"notes": [{"id": each.key, "score": each.score, "text": each.value} for each in found]}

    host.add_action("note.add", add)
    host.add_action("note.find", find)


def _scope(data: dict[str, Any]) -> tuple[str, str]:
    return _said(data, "user"), "notes"


def _said(data: dict[str, Any], name: str) -> str:
    said = data.get(name)
    if not isinstance(said, str) or not said:
        raise InvalidRequestError.at(f"data.{name}", "a text is wanted")
    return said
