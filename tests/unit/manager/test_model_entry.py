"""What is said of one model."""

from protocol.vocabulary import ModelState
from worker.core.models import ModelSpec
from worker.manager.model_entry import ModelEntry


def test_a_model_that_is_being_loaded_is_listed_where_it_is_to_be() -> None:
    """Whoever else wants it waits for it there."""
    entry = ModelEntry(ModelSpec("m", "safetensors"))
    assert entry.status(0).device_id is None
    entry.state, entry.reserved_on = ModelState.LOADING, "cuda:0"
    assert entry.status(0).device_id == "cuda:0"
